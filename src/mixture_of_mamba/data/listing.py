"""Finds a user's documents and checks their form; pictures and sound are not opened here.

Three layouts:

    documents.jsonl     one a line: [{"text": "..."}, {"image": "a.png"}, {"speech": "a.wav"}]
    documents.parquet   column "segments", a list of {text, image, ...} with one of them not null
    a folder            of such files; or of a.txt, a.png, a.wav: files of one stem are a document

The keys are the names of the run's modalities; "audio" stands for "speech". Paths are relative to
the file that names them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..extras import needs
from ..modalities.input_checks import check_text
from ..modalities.media import Media
from .errors import DataError, data_error
from .folders import counted, files_below

__all__ = ["ListedDocument", "Listing", "list_documents", "modality_of_suffix"]

#: Characters of a user's content that a message repeats.
SHOWN = 80
#: Longest path, characters.
LONGEST_PATH = 1024
#: Keys that are accepted beside the names of modalities.
ALIASES = {"audio": "speech"}

_FILES = (".jsonl", ".parquet")


@dataclass(frozen=True)
class ListedDocument:
    """One document as it was named.

    Attributes:
        where: file and line, for messages.
        segments: (modality, text or path); empty where `error` is set.
        error: what is wrong with its form.
    """

    where: str
    segments: tuple[tuple[str, str | Path], ...] = ()
    error: DataError | None = None


@dataclass
class Listing:
    """The documents of a source in a fixed order.

    Attributes:
        documents: all that are named, bad ones among them.
        notes: a line for each kind of file that the folder holds and no document names.
    """

    documents: list[ListedDocument] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_documents(source: Path, media: Mapping[str, Media]) -> Listing:
    """Every document of a .jsonl or .parquet file or of a folder.

    Args:
        media: of each modality of the run.

    Raises:
        DataError: the source is of no known form, or holds nothing.
    """
    if not source.is_dir():
        if source.suffix.lower() not in _FILES:
            what = "is neither .jsonl nor .parquet; see docs/data.md for the forms"
            raise DataError(str(source), what)
        return Listing(list(_file(source, media)))
    found = files_below(source)
    listing = Listing(notes=found.notes())
    for error in found.unreadable:
        where = str(error.filename)
        listing.documents.append(ListedDocument(where, error=data_error(where, error)))
    tables = [path for path in found.files if path.suffix.lower() in _FILES]
    if tables:
        for path in tables:
            listing.documents += _file(path, media)
        rest = _unnamed(found.files, tables, listing.documents)
    else:
        names = modality_of_suffix(media)
        listing.documents += _stems(source, found.files, names, list(media))
        rest = [path for path in found.files if path.suffix.lower() not in names]
    if rest:
        listing.notes.append(f"not read: {counted(rest, 'files that belong to no document')}")
    return listing


def modality_of_suffix(media: Mapping[str, Media]) -> dict[str, str]:
    """Suffix -> modality; where several have the same files the one whose medium names them sooner
    (.gif: video before image), or the first one."""
    suffixes = dict.fromkeys(s for medium in media.values() for s in medium.suffixes)

    def place(name: str, suffix: str) -> int:
        theirs = media[name].suffixes
        return theirs.index(suffix) if suffix in theirs else len(suffixes)

    return {s: min(media, key=lambda name: place(name, s)) for s in suffixes}


def _unnamed(files: list[Path], tables: list[Path], documents: list[ListedDocument]) -> list[Path]:
    """Files beside tables of documents that none of these names."""
    named = {
        os.path.realpath(value)
        for document in documents
        for _, value in document.segments
        if isinstance(value, Path) and "\0" not in str(value)
    }
    own = set(tables)
    return [p for p in files if p not in own and os.path.realpath(p) not in named]


def _file(path: Path, media: Mapping[str, Media]) -> Iterator[ListedDocument]:
    """A table's documents; where it cannot be read on, an error stands for the rest."""
    try:
        yield from (_jsonl if path.suffix.lower() == ".jsonl" else _parquet)(path, media)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        yield ListedDocument(str(path), error=data_error(str(path), error))


def _jsonl(path: Path, media: Mapping[str, Media]) -> Iterator[ListedDocument]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                value = json.loads(line, object_pairs_hook=_once)
            except Exception as error:  # too deep, too many digits, not UTF-8 ...
                what = f"is no valid JSON ({_short(error)}); every line is one list of segments"
                yield ListedDocument(where, error=DataError(where, what))
            else:
                yield _document(where, value, path.parent, media)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"an object has two values for one of {_short(names)}")
    return dict(pairs)


def _parquet(path: Path, media: Mapping[str, Media]) -> Iterator[ListedDocument]:
    with needs("reading Parquet", "train"):
        import pyarrow.parquet as parquet
    try:
        table = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow has no common class for unreadable files
        raise DataError(str(path), f"is no readable Parquet file ({_short(error)})") from error
    if "segments" not in table.schema_arrow.names:
        raise DataError(
            str(path),
            f"has the columns {_short(table.schema_arrow.names)}, but documents stand in a column "
            f"'segments', a list of {{{', '.join(media)}}}",
        )
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=["segments"]):
        for entry in batch.column(0).to_pylist():
            number += 1
            named = entry
            if isinstance(entry, list):
                named = [
                    {k: v for k, v in s.items() if v is not None} if isinstance(s, dict) else s
                    for s in entry
                ]
            yield _document(f"{path}: row {number}", named, path.parent, media)


def _stems(
    folder: Path, files: list[Path], names: Mapping[str, str], order: list[str]
) -> Iterator[ListedDocument]:
    groups: dict[Path, list[tuple[str, Path]]] = {}
    for path in files:
        if name := names.get(path.suffix.lower()):
            groups.setdefault(path.with_suffix(""), []).append((name, path))
    if not groups:
        raise DataError(
            str(folder),
            "holds no documents: no .jsonl, no .parquet, and no files of "
            f"{', '.join(sorted(names))}",
        )
    for stem, members in groups.items():
        members.sort(key=lambda f: (order.index(f[0]), f[1]))
        try:
            segments = [(name, _read_text(p) if name == "text" else p) for name, p in members]
            filled = tuple(s for s in segments if s[1] != "")
            if not filled:
                raise DataError(str(stem), "every text of this document is empty")
            yield ListedDocument(str(stem), filled)
        except Exception as error:
            yield ListedDocument(str(stem), error=data_error(str(stem), error))


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}:{line}",
            f"is not UTF-8 (byte 0x{data[error.start]:02x}); convert it, for instance with: "
            "iconv -f latin1 -t utf-8",
        ) from error


def _document(where: str, value: Any, base: Path, media: Mapping[str, Media]) -> ListedDocument:
    try:
        if isinstance(value, dict) and set(value) == {"segments"}:
            value = value["segments"]
        if not isinstance(value, list) or not value:
            raise DataError(where, "a document is a list of at least one segment")
        segments = (_segment(where, i, s, base, media) for i, s in enumerate(value, 1))
        return ListedDocument(where, tuple(segments))
    except Exception as error:
        return ListedDocument(where, error=data_error(where, error))


def _segment(
    where: str, number: int, value: Any, base: Path, media: Mapping[str, Media]
) -> tuple[str, str | Path]:
    key = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else None
    name = ALIASES.get(key, key) if isinstance(key, str) else ""
    if name not in media:
        forms = ", ".join(f'{{"{n}": {"..." if n == "text" else "path"}}}' for n in media)
        raise DataError(
            where,
            f"segment {number} is {_short(value)}; a segment is one of {forms}, the modalities of "
            "the run",
        )
    content = value[key]
    if not isinstance(content, str) or not content.strip():
        raise DataError(where, f"segment {number}: {key} is {_short(content)}, not a filled string")
    check_text(content)
    if name == "text":
        return name, content
    if len(content) > LONGEST_PATH or content.startswith("data:"):
        raise DataError(
            where,
            f"segment {number}: {key} is {_short(content)}, {len(content):,} characters, which is "
            "no path; write the content into a file, and give its path",
        )
    return name, base / content


def _short(value: Any) -> str:
    """A user's value, cut where it is long; what is cut is not formatted first."""
    kind = type(value).__name__
    if isinstance(value, (str, bytes)):
        shown = repr(value[:SHOWN])
        return shown if len(value) <= SHOWN else f"{kind} {shown}... ({len(value):,} long)"
    if isinstance(value, (list, tuple)):
        more = ", ..." if len(value) > 5 else ""
        return f"[{', '.join(_short(v) for v in value[:5])}{more}]"
    if isinstance(value, dict):
        more = ", ..." if len(value) > 5 else ""
        shown = ", ".join(f"{_short(k)}: {_short(v)}" for k, v in list(value.items())[:5])
        return f"{{{shown}{more}}}"
    text = str(value)
    return text if len(text) <= 3 * SHOWN else f"{text[: 3 * SHOWN]}..."
