"""The cache folder of this package, and its environment variables.

Everything in the cache can be made again.

    MOM_CACHE       root of the cache; default: mixture-of-mamba in the user's cache folder
                    (~/.cache on Linux, or $XDG_CACHE_HOME)
    MOM_NATIVE      0 switches the compiled CPU kernels off
    MOM_TRACEBACK   1 shows the traceback of a command's error (cli/errors.py)

Names of earlier versions still count: MIXTURE_OF_MAMBA_CACHE is the folder of the kernels and
measurements itself, MIXTURE_OF_MAMBA_NATIVE is MOM_NATIVE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "cache_folder", "kernels_off"]

#: Folders of the cache: compiled kernels, prepared data, measured speeds of this machine.
Kind = Literal["native", "data", "measured"]


def cache_folder(kind: Kind, chosen: str | Path | None = None) -> Path:
    """Where one kind of cached files lies; nothing is made or checked (see private.py).

    Args:
        chosen: the folder itself, where the user named one.
    """
    if chosen is not None:
        return Path(chosen).expanduser()
    old = os.environ.get("MIXTURE_OF_MAMBA_CACHE")
    if old and kind != "data":
        return Path(old).expanduser()
    return _root() / kind


def kernels_off() -> str | None:
    """The variable that switches the compiled CPU kernels off, as "NAME=0"; else None."""
    for name in ("MOM_NATIVE", "MIXTURE_OF_MAMBA_NATIVE"):
        if (value := os.environ.get(name)) is not None:
            return f"{name}={value}" if value == "0" else None
    return None


def _root() -> Path:
    if given := os.environ.get("MOM_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "mixture-of-mamba"
