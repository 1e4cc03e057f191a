"""Generation: from prompts in any modality to samples of any modality."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .generator import Generator as Generator
    from .loop import Decoding as Decoding
    from .loop import Event as Event
    from .options import Sampling as Sampling
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {"generator": ["Generator"], "loop": ["Decoding", "Event"], "options": ["Sampling"]},
    )
