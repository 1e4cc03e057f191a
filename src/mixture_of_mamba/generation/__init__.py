"""Generation: states in, samples of every modality out."""

from .generator import Generator
from .loop import Event, decode
from .sampling import Sampling

__all__ = ["Event", "Generator", "Sampling", "decode"]
