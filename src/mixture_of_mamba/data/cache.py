"""Prepared data in the user's cache folder, under the hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..private import NotPrivate, check_folder

__all__ = ["cache_folder", "content_hash", "materialise"]


def cache_folder(chosen: str | None = None) -> Path:
    """The chosen folder, else $MOM_CACHE, else the platform's cache folder."""
    if chosen is not None:
        return Path(chosen).expanduser()
    if given := os.environ.get("MOM_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "mixture_of_mamba"


def content_hash(key: Mapping[str, Any]) -> str:
    """16 hexadecimal digits for a JSON-able mapping."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def materialise(
    root: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]
) -> Path:
    """The folder `kind-HASH` below `root`, made by `make(folder)` where it is missing.

    One process makes it while others wait; it appears under its name only when it is complete, so
    a killed process leaves nothing half done behind.

    Raises:
        OSError: the cache cannot be written, is somebody else's or can be written by others; the
            message says how to choose another.
    """
    from filelock import FileLock

    name = f"{kind}-{content_hash(key)}"
    folder = root / name
    try:
        check_folder(root)
        if folder.is_dir():
            check_folder(folder)
            return folder
        lock = FileLock(root / f"{name}.lock")
        with lock:
            if folder.is_dir():
                return folder
            for left in root.glob(f"{name}.*.part"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".part", dir=root))
            try:
                make(work)
                (work / "key.json").write_text(json.dumps(dict(key), indent=1, default=str))
                work.replace(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except NotPrivate as error:
        raise OSError(
            f"the data cache is not used: {error}; or choose another folder with the environment "
            "variable MOM_CACHE"
        ) from error
    except PermissionError as error:
        raise OSError(
            f"the data cache {root} cannot be written ({error.strerror}); choose another folder "
            "with the environment variable MOM_CACHE"
        ) from error
    return folder
