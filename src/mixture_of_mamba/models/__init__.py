"""Models: a network over interleaved modalities, declared as data."""

from .cache import Cache
from .config import Modality, ModelConfig
from .model import ModelOutput, MultimodalModel
from .presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "Cache",
    "Modality",
    "ModelConfig",
    "ModelOutput",
    "MultimodalModel",
    "preset",
]
