"""Finds a user's documents and checks their form; pictures and sound are not opened here.

Three layouts:

    documents.jsonl     a document a line: [{"text": "..."}, {"image": "a.png"}, {"audio": "a.wav"}]
    documents.parquet   column "segments", a list of {text, image, audio} with one of them not null
    a folder            of such files; or of a.txt, a.png, a.wav: files of one stem are a document

Paths are relative to the file that names them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixture_of_mamba.data.sources.errors import DataError
from mixture_of_mamba.extras import needs

__all__ = ["Listed", "list_documents", "stamps"]

KINDS = ("text", "image", "audio")
_SUFFIXES = {
    "text": {".txt", ".md"},
    "image": {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
    "audio": {".wav", ".flac", ".ogg", ".mp3"},
}


@dataclass(frozen=True)
class Listed:
    """One document as it was named.

    Attributes:
        where: file and line, for messages.
        segments: (kind of KINDS, text or path); empty where `error` is set.
        error: what is wrong with its form.
    """

    where: str
    segments: tuple[tuple[str, str | Path], ...] = ()
    error: DataError | None = None


def list_documents(source: Path) -> Iterator[Listed]:
    """Every document of a .jsonl or .parquet file or of a folder, in a fixed order.

    Raises:
        DataError: the source is of no known form, or holds nothing.
    """
    if source.is_file():
        yield from _file(source)
        return
    files = sorted(p for p in source.rglob("*") if p.suffix in (".jsonl", ".parquet"))
    if files:
        for file in files:
            yield from _file(file)
        return
    yield from _stems(source)


def stamps(documents: list[Listed]) -> list[Any]:
    """What the content depends on: texts, and path, size and time of every named file."""
    out: list[Any] = []
    for document in documents:
        out.append(str(document.error) if document.error else document.where)
        for kind, value in document.segments:
            if isinstance(value, Path):
                stat = value.stat() if value.is_file() else None
                out.append([kind, str(value), stat and stat.st_size, stat and stat.st_mtime_ns])
            else:
                out.append([kind, value])
    return out


def _file(path: Path) -> Iterator[Listed]:
    if path.suffix == ".jsonl":
        yield from _jsonl(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        raise DataError(str(path), "is neither .jsonl nor .parquet; see docs/data.md for the forms")


def _jsonl(path: Path) -> Iterator[Listed]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                yield _document(where, json.loads(line), path.parent)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                what = f"is no valid JSON ({error}); every line is one list of segments"
                yield Listed(where, error=DataError(where, what))


def _parquet(path: Path) -> Iterator[Listed]:
    with needs("reading Parquet", "train"):
        import pyarrow.parquet as parquet
    try:
        table = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow has no common class for unreadable files
        raise DataError(str(path), f"is no readable Parquet file ({error})") from error
    if "segments" not in table.schema_arrow.names:
        raise DataError(
            str(path),
            f"has the columns {table.schema_arrow.names}, but documents stand in a column "
            "'segments', a list of {text, image, audio}",
        )
    number = 0
    for batch in table.iter_batches(columns=["segments"]):
        for entry in batch.column(0).to_pylist():
            number += 1
            named = entry
            if isinstance(entry, list):
                named = [
                    {k: v for k, v in s.items() if v is not None} if isinstance(s, dict) else s
                    for s in entry
                ]
            yield _document(f"{path}: row {number}", named, path.parent)


def _stems(folder: Path) -> Iterator[Listed]:
    kind_of = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
    groups: dict[Path, list[tuple[str, Path]]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if kind := kind_of.get(path.suffix.lower()):
            groups.setdefault(path.with_suffix(""), []).append((kind, path))
    if not groups:
        raise DataError(
            str(folder),
            "holds no documents: no .jsonl, no .parquet, and no files of "
            f"{', '.join(sorted(kind_of))}",
        )
    for stem, files in groups.items():
        segments: list[tuple[str, str | Path]] = []
        for kind, path in sorted(files, key=lambda f: (KINDS.index(f[0]), f[1])):
            if kind == "text":
                text = path.read_text(encoding="utf-8", errors="replace").strip()
                if text:
                    segments.append((kind, text))
            else:
                segments.append((kind, path))
        error = None if segments else DataError(str(stem), "every text of this document is empty")
        yield Listed(str(stem), tuple(segments), error)


def _document(where: str, value: Any, base: Path) -> Listed:
    try:
        if isinstance(value, dict) and set(value) == {"segments"}:
            value = value["segments"]
        if not isinstance(value, list) or not value:
            raise DataError(where, "a document is a list of at least one segment")
        return Listed(where, tuple(_segment(where, i, s, base) for i, s in enumerate(value, 1)))
    except DataError as error:
        return Listed(where, error=error)


def _segment(where: str, number: int, value: Any, base: Path) -> tuple[str, str | Path]:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in KINDS:
        raise DataError(
            where,
            f"segment {number} is {json.dumps(value, default=str)[:80]}; a segment is one of "
            '{"text": ...}, {"image": path}, {"audio": path}',
        )
    kind, content = next(iter(value.items()))
    if not isinstance(content, str) or not content.strip():
        raise DataError(where, f"segment {number}: {kind} is {content!r}, not a filled string")
    return (kind, content) if kind == "text" else (kind, base / content)
