"""Single items of a user's files, by modality, without making documents of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..modalities.media import TEXT, Limits, Media
from .errors import DataError
from .listing import ListedDocument, list_documents, modality_of_suffix

__all__ = ["LabelledItem", "items_of_files"]


class LabelledItem(NamedTuple):
    """An item as its medium reads it, and the file that it came from."""

    label: str
    item: Any


def items_of_files(
    paths: Sequence[Path], media: Mapping[str, Media], *, limits: Limits | None = None, most: int
) -> dict[str, list[LabelledItem]]:
    """The first items of each modality in files, folders, and lists of documents.

    Args:
        paths: files of the modalities' media, or whatever data.source takes.
        media: of each modality.
        most: items of a modality that are read.

    Raises:
        DataError: a file of no modality, or one that cannot be read.
    """
    found: dict[str, list[LabelledItem]] = {name: [] for name in media}
    for document in _documents(paths, media):
        if document.error is not None:
            raise document.error
        for name, value in document.segments:
            if len(found[name]) == most:
                continue
            if isinstance(value, Path):
                found[name].append(LabelledItem(str(value), media[name].read(value, limits)))
            else:
                found[name].append(LabelledItem(document.where, value))
    return {name: items for name, items in found.items() if items}


def _documents(paths: Sequence[Path], media: Mapping[str, Media]) -> Iterable[ListedDocument]:
    by_suffix = modality_of_suffix(media)
    for path in paths:
        if not path.exists():
            raise DataError(str(path), "does not exist")
        name = by_suffix.get(path.suffix.lower())
        if path.is_dir() or name is None:
            yield from list_documents(path, media).documents
            continue
        value = media[name].read(path).strip() if media[name] is TEXT else path
        yield ListedDocument(str(path), ((name, value),))
