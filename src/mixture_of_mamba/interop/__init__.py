"""Interop: checkpoints and interfaces of other projects, and upcycling.

`interop.official` has the official release's modules, `interop.hf` the classes for transformers
(importing it imports transformers; nothing else here does).
"""

from .loading import load_model
from .merge import merge
from .pretrained import load_dense, save_state_spaces, save_transformers
from .start import Start, start_from
from .upcycle import Upcycled, upcycle

__all__ = [
    "Start",
    "Upcycled",
    "load_dense",
    "load_model",
    "merge",
    "save_state_spaces",
    "save_transformers",
    "start_from",
    "upcycle",
]
