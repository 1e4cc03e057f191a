"""What tells whether documents, files and packages are still those that something cached was made
of."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ..extras import package_versions
from ..files import digest
from ..modalities.options import CodecOptions
from ..modalities.registry import codec_class
from .listing import ListedDocument

__all__ = ["codec_version", "digests", "fingerprints", "option_digests", "versions"]

#: Packages that prepared data and fitted codecs depend on.
_PACKAGES = (
    "torch",
    "numpy",
    "tokenizers",
    "scikit-learn",
    "diffusers",
    "transformers",
    "vector-quantize-pytorch",
    "espeakng-loader",
    # they read files: another version may give other pixels, samples or tokens
    "pillow",
    "av",
    "soundfile",
    "scipy",
    "torchaudio",
    "sentencepiece",
    "tiktoken",
)

EDGE = 4096
"""Bytes at either end of a file that are part of its stamp; up to twice as many are all of it."""


LARGE = 1 << 24
"""Bytes of a file from which on its digest is kept while the process runs."""


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


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of a file, or of all files of a folder by their names below it."""
    if path.is_file():
        return {path.name: _digest(path)}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {file.relative_to(path).as_posix(): _digest(file) for file in files}


def option_digests(options: CodecOptions) -> dict[str, dict[str, str]]:
    """Option -> digests of the files that it names, by their names, wherever they lie.

    Raises:
        FileNotFoundError, ValueError: something is missing.
    """
    found = {
        option: {name: one for path in paths for name, one in digests(path).items()}
        for option, paths in options.named_files().items()
    }
    for option, (_, inner) in options.nested.items():
        found |= {f"{option}.{name}": files for name, files in option_digests(inner).items()}
    return found


def codec_version(codec: str, options: CodecOptions) -> Any:
    """Of a codec's training, with those of the codecs inside it."""
    version = codec_class(codec).version
    inner = {option: codec_version(*found) for option, found in options.nested.items()}
    return [version, inner] if inner else version


def versions() -> dict[str, str | None]:
    """Of Python and of each package; None: it is not installed."""
    return {"python": platform.python_version(), **package_versions(_PACKAGES)}


def _digest(path: Path) -> str:
    """Of a file; read again where its size, times or number are others than before."""
    stat = path.stat()
    if stat.st_size < LARGE:
        return digest(path)
    return _kept(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@cache
def _kept(path: Path, *_stamp: int) -> str:
    return digest(path)


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
    ends = hashlib.sha256(edges).hexdigest()
    if stat.st_size <= 2 * EDGE:
        return [str(path), stat.st_size, ends]
    return [str(path), stat.st_size, ends, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
