"""Generation: from prompts in any modality to samples of any modality."""

from .generator import Generator
from .loop import Decoding, Event
from .sampling import Sampling

__all__ = ["Decoding", "Event", "Generator", "Sampling"]
