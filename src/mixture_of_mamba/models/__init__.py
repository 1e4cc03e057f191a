"""Models: a network over interleaved modalities, declared as data."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .config import Modality as Modality
    from .config import ModelConfig as ModelConfig
    from .freezing import freeze as freeze
    from .loss import ModelOutput as ModelOutput
    from .model import MultimodalModel as MultimodalModel
    from .presets import PRESETS as PRESETS
    from .presets import preset as preset
    from .state import Cache as Cache
    from .state import ModelState as ModelState
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            "config": ["Modality", "ModelConfig"],
            "freezing": ["freeze"],
            "loss": ["ModelOutput"],
            "model": ["MultimodalModel"],
            "presets": ["PRESETS", "preset"],
            "state": ["Cache", "ModelState"],
        },
    )
