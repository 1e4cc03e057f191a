"""What tells whether documents are still those that a cached preparation was made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .listing import ListedDocument

__all__ = ["fingerprints"]

EDGE = 4096
"""Bytes at either end of a file that are part of its stamp; up to twice as many are all of it."""


def fingerprints(documents: Iterable[ListedDocument]) -> list[Any]:
    """Texts as they are; of every named file its path, size, times, number and a digest of its
    edges. A file that was written to has another time of change, whatever became of its time of
    modification."""
    out: list[Any] = []
    for document in documents:
        out.append(str(document.error) if document.error else document.where)
        for kind, value in document.segments:
            out.append([kind, *(_stamp(value) if isinstance(value, Path) else [value])])
    return out


def _stamp(path: Path) -> list[Any]:
    try:
        if not path.is_file():
            return [str(path), None]
        stat = path.stat()
        with path.open("rb") as file:
            edges = file.read(EDGE)
            if stat.st_size > 2 * EDGE:
                file.seek(-EDGE, 2)
            edges += file.read(EDGE)
    except (OSError, ValueError):  # named again, with its document, when it is read
        return [str(path), None]
    digest = hashlib.sha256(edges).hexdigest()
    if stat.st_size <= 2 * EDGE:
        return [str(path), stat.st_size, digest]
    return [str(path), stat.st_size, digest, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
