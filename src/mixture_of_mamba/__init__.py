"""Mixture-of-Mamba: a Mamba block with one weight per modality in its projections."""

# isort: off
from . import startup  # noqa: F401  before torch: OpenMP reads its settings when it is loaded

# isort: on
from ._version import __version__
from .batch import Batch
from .layers import PROJECTIONS, MambaBlock, MambaConfig, MambaMixer, MambaState, ModalityLinear
from .models import Modality, ModelConfig, ModelOutput, MultimodalModel, preset
from .ops import (
    BackendError,
    Routing,
    causal_conv1d,
    modality_linear,
    selective_scan,
    use_backend,
)

__all__ = [
    "PROJECTIONS",
    "BackendError",
    "Batch",
    "MambaBlock",
    "MambaConfig",
    "MambaMixer",
    "MambaState",
    "Modality",
    "ModalityLinear",
    "ModelConfig",
    "ModelOutput",
    "MultimodalModel",
    "Routing",
    "__version__",
    "causal_conv1d",
    "modality_linear",
    "preset",
    "selective_scan",
    "use_backend",
]
