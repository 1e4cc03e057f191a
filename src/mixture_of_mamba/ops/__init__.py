"""Ops: a plain reference and fast backends for each, chosen in one place."""

from .causal_conv1d import causal_conv1d
from .dispatch import BackendError, use_backend
from .modality_linear import modality_linear
from .routing import Routing
from .selective_scan import selective_scan

__all__ = [
    "BackendError",
    "Routing",
    "causal_conv1d",
    "modality_linear",
    "selective_scan",
    "use_backend",
]
