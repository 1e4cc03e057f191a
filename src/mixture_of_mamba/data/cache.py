"""Prepared data in the user's cache folder, under the hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..files import PART, SUMS, DamagedFile, filling, verify, writing
from ..private import NotPrivate, check_folder

__all__ = ["build_or_load", "content_hash"]

ELSEWHERE = "choose another folder with data.cache or the environment variable MOM_CACHE"


def content_hash(key: Mapping[str, Any]) -> str:
    """16 hexadecimal digits for a JSON-able mapping."""
    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build_or_load(
    root: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]
) -> Path:
    """The folder `kind-HASH` below `root`, made by `make(folder)` where it is missing.

    One process makes it while others wait; it appears under its name only when it is complete, so
    a killed process leaves nothing half done behind. Its files are held against their digests at
    every call; where one is damaged, the folder is made anew, which is said.

    Raises:
        WriteError: the cache cannot be written; the message says how to choose another.
        OSError: it is somebody else's or can be written by others; so does this one.
    """
    from filelock import FileLock

    name = f"{kind}-{content_hash(key)}"
    folder = root / name
    with writing(root, ELSEWHERE):
        _check_private(root)
        if _whole(folder):
            return folder
        lock = FileLock(root / f"{name}.lock")
        lock.acquire()
    try:
        if _whole(folder, say=True):
            return folder
        for left in root.glob(f"{PART}{name}-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        with filling(folder, anew=True, elsewhere=ELSEWHERE) as part:
            part.chmod(0o700)
            make(part)
            (part / "key.json").write_text(json.dumps(dict(key), indent=1, default=str))
    finally:
        lock.release()
    return folder


def _whole(folder: Path, *, say: bool = False) -> bool:
    """Whether a cached folder is there and undamaged; one without digests counts as damaged."""
    if not folder.is_dir():
        return False
    _check_private(folder)
    try:
        if verify(folder):
            return True
        problem = f"{folder} has no {SUMS}"
    except DamagedFile as error:
        problem = str(error)
    if say:
        print(f"this cached data is made anew: {problem}", file=sys.stderr)
    return False


def _check_private(folder: Path) -> None:
    try:
        check_folder(folder)
    except NotPrivate as error:
        raise OSError(f"the data cache is not used: {error}; or {ELSEWHERE}") from error
