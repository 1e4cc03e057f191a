"""A user's own interleaved documents, read once and split into training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..modalities.config import ModalityConfig
from ..modalities.media import Limits
from ..modalities.registry import codec_class
from ..modalities.tokenizer_set import TEXT
from .config import DataConfig
from .corpus import Corpus, Item
from .errors import BadDocuments, DataError
from .examples import MAX_EXAMPLES, Example
from .listing import ListedDocument, Listing
from .stage_log import StageLog

__all__ = ["UserDocuments"]

#: Seconds of items that are kept as they are in their files, such as sound, all together.
EXAMPLE_SECONDS = 1200


class UserDocuments:
    """Documents of `config.source`; a split by document, drawn from the seed.

    Documents of equal content are taken once, so that none is in both splits.

    Attributes:
        notes: a line for each kind of document that was left out, bad ones aside.

    Raises:
        DataError: a document cannot be read, and `config.skip_bad` is off.
    """

    text_fraction: float | None = None

    def __init__(
        self,
        config: DataConfig,
        modalities: Mapping[str, ModalityConfig],
        listing: Listing,
        log: StageLog,
    ) -> None:
        self.bad = BadDocuments(config.skip_bad)
        readable: dict[bytes, _Document] = {}
        twins: list[tuple[str, str]] = []
        for number, listed in enumerate(listing.documents):
            log.still(f"read {number:,} of {len(listing.documents):,} documents")
            with self.bad.document(listed.where):
                document = _Document(listed, config, modalities)
                first = readable.setdefault(document.digest(), document)
                if first is not document:
                    twins.append((document.where, first.where))
        self.notes = []
        if twins:
            self.notes.append(
                f"left out: {len(twins):,} documents of a content that others have, first: "
                f"{twins[0][0]}, as {twins[0][1]}"
            )
        documents = list(readable.values())
        self.notes += _remarks(documents)
        if len(documents) < 2:
            raise DataError(
                config.source,
                f"{len(documents)} readable documents ({len(self.bad.skipped)} left out, "
                f"{len(twins)} repeated); at least 2 are needed, one to train on and one to hold "
                "out",
            )
        held = _held_out(len(documents), config)
        splits = {
            split: [d for d, h in zip(documents, held, strict=True) if h == (split == "validation")]
            for split in ("train", "validation")
        }
        self._held = splits["validation"]
        self.training = _corpus(splits["train"])
        self.validation = _corpus(splits["validation"])

    def finish(self) -> None:
        """Nothing is under way."""

    def stop(self) -> None:
        """Nothing is under way."""

    def examples(self) -> list[Example]:
        """The first held-out documents; with their sound while all of it together is short."""
        room, examples = float(EXAMPLE_SECONDS), []
        for document in self._held[:MAX_EXAMPLES]:
            heard = document.seconds <= room
            room -= document.seconds if heard else 0.0
            examples.append(document.example(heard))
        return examples


class _Document:
    """One document with its files opened, each item as its codec keeps it.

    Attributes:
        segments: (modality, text or prepared item).
        seconds: of what its example reads again.
        remarks: what a user should know of it.
    """

    def __init__(
        self,
        listed: ListedDocument,
        config: DataConfig,
        modalities: Mapping[str, ModalityConfig],
    ) -> None:
        if listed.error is not None:
            raise listed.error
        self.where = listed.where
        self.seconds = 0.0
        self._limits = Limits(max_pixels=config.max_pixels, max_seconds=config.max_seconds)
        self._modalities = modalities
        self.remarks: list[str] = []
        self._kept: dict[str, Any] = {}
        self._again: dict[str, Path] = {}
        self.segments: list[tuple[str, Any]] = [
            (name, value if name == TEXT else self._prepared(name, Path(value)))
            for name, value in listed.segments
        ]

    def _prepared(self, name: str, path: Path) -> Any:
        modality = self._modalities[name]
        codec = codec_class(modality.name)
        item, options = codec.media.read(path, self._limits), modality.options
        prepared = codec.prepare(item, options)
        if remark := codec.remark(item, options):
            self.remarks.append(f"{name} {remark}")
        if name not in self._kept and name not in self._again:
            kept = codec.example(item, prepared, options)
            if kept is not None:
                self._kept[name] = kept
            else:  # large, and read again for an example
                self._again[name] = path
                self.seconds += codec.media.seconds(item)
        return prepared

    def digest(self) -> bytes:
        """Of its content as it is trained on."""
        hashed = hashlib.sha256()
        for name, content in self.segments:
            data = content.encode() if isinstance(content, str) else content.tobytes()
            hashed.update(f"{name} {len(data)} ".encode())
            hashed.update(data)
        return hashed.digest()

    def example(self, heard: bool) -> Example:
        """Its texts, and the first item of every other modality; what is read again, such as sound,
        only if `heard`."""
        items: dict[str, Any] = {}
        for name, content in self.segments:
            if name == TEXT or name in self._kept:
                items.setdefault(name, self._kept.get(name, content))
        if texts := [str(c) for name, c in self.segments if name == TEXT]:
            items[TEXT] = "\n".join(texts)
        for name, path in self._again.items() if heard else ():
            items[name] = codec_class(self._modalities[name].name).media.read(path, self._limits)
        return Example(items)


def _remarks(documents: list[_Document]) -> list[str]:
    """A line for each thing that a user should know of documents."""
    found: dict[str, list[str]] = {}
    for document in documents:
        for remark in document.remarks:
            found.setdefault(remark, []).append(document.where)
    return [f"{remark}; {len(at):,} of them, first: {at[0]}" for remark, at in found.items()]


def _held_out(count: int, config: DataConfig) -> np.ndarray:
    """(count,) bool, true for at least one document and never for all."""
    many = min(max(1, round(count * config.validation_fraction)), count - 1)
    held = np.zeros(count, bool)
    held[np.random.default_rng([config.seed, 29]).permutation(count)[:many]] = True
    return held


def _corpus(documents: list[_Document]) -> Corpus:
    items: dict[str, list[Any]] = {}
    rows: list[list[Item]] = []
    for document in documents:
        row: list[Item] = []
        for name, content in document.segments:
            if name == TEXT:
                row.append((name, content))
                continue
            kept = items.setdefault(name, [])
            row.append((name, len(kept)))
            kept.append(content)
        rows.append(row)
    return Corpus(rows, dict(items), where=[document.where for document in documents])
