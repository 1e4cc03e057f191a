"""Training: one loop, its configuration, checkpoints and run folders.

`train` and `load_run` are the ways in. They are imported when they are first asked for, so that
reading a config imports neither Lightning nor the data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import train
    from .runs import load_run

__all__ = ["load_run", "train"]

_MODULES = {"train": ".loop", "load_run": ".runs"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
