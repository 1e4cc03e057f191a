"""Models: a network over interleaved modalities, declared as data."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .cache import Cache as Cache
    from .config import Modality as Modality
    from .config import ModelConfig as ModelConfig
    from .freezing import freeze as freeze
    from .model import ModelOutput as ModelOutput
    from .model import MultimodalModel as MultimodalModel
    from .presets import PRESETS as PRESETS
    from .presets import preset as preset
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "cache": ["Cache"],
            "config": ["Modality", "ModelConfig"],
            "freezing": ["freeze"],
            "model": ["ModelOutput", "MultimodalModel"],
            "presets": ["PRESETS", "preset"],
        },
    )
