"""Layers: one block and its parts."""

from .block import MambaBlock
from .config import PROJECTIONS, MambaConfig, parse_split
from .linear import ModalityLinear
from .mixer import MambaMixer
from .norm import RMSNorm
from .state import MambaState

__all__ = [
    "PROJECTIONS",
    "MambaBlock",
    "MambaConfig",
    "MambaMixer",
    "MambaState",
    "ModalityLinear",
    "RMSNorm",
    "parse_split",
]
