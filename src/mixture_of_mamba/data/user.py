"""A user's own interleaved documents, read once and split into training and validation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..modalities.image.files import fit_image, read_image
from ..modalities.speech.files import read_sound
from ..modalities.speech.mel import HOP, SAMPLE_RATE, log_mel
from .config import DataConfig
from .corpus import Corpus, Item
from .errors import BadDocuments, DataError
from .examples import Example
from .listing import Listed, Listing
from .progress import Progress

__all__ = ["UserDocuments"]

EXAMPLES = 256
"""Validation documents that are kept in the raw."""
EXAMPLE_SECONDS = 1200
"""Sound that is kept in the raw with them, all together."""

_MODALITY = {"text": "text", "image": "image", "audio": "speech"}


class UserDocuments:
    """Documents of `config.source`; a split by document, drawn from the seed.

    Documents of equal content are taken once, so that none is in both splits.

    Attributes:
        notes: a line for each kind of document that was left out, bad ones aside.

    Raises:
        DataError: a document cannot be read, and `config.skip_bad` is off.
    """

    text_fraction: float | None = None

    def __init__(self, config: DataConfig, listing: Listing, say: Progress) -> None:
        self.bad = BadDocuments(config.skip_bad)
        readable: dict[bytes, _Document] = {}
        twins: list[tuple[str, str]] = []
        for number, listed in enumerate(listing.documents):
            say.still(f"read {number:,} of {len(listing.documents):,} documents")
            with self.bad.document(listed.where):
                document = _Document(listed, config)
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
        if len(documents) < 2:
            raise DataError(
                config.source,
                f"{len(documents)} readable documents ({len(self.bad.left_out)} left out, "
                f"{len(twins)} repeated); at least 2 are needed, one to train on and one to hold "
                "out",
            )
        held = _held_out(len(documents), config)
        parts = {
            split: [d for d, h in zip(documents, held, strict=True) if h == (split == "validation")]
            for split in ("train", "validation")
        }
        self._held = parts["validation"]
        self.training = _corpus(parts["train"], config.chosen("image_size"))
        self.validation = _corpus(parts["validation"], config.chosen("image_size"))

    def finish(self) -> None:
        """Nothing is under way."""

    def stop(self) -> None:
        """Nothing is under way."""

    def examples(self) -> list[Example]:
        """The first held-out documents; with their sound while all of it together is short."""
        room, examples = float(EXAMPLE_SECONDS), []
        for document in self._held[:EXAMPLES]:
            heard = document.seconds <= room
            room -= document.seconds if heard else 0.0
            examples.append(document.example(heard))
        return examples


class _Document:
    """One document with its pictures and sounds opened; sounds are kept as log-mel frames.

    Attributes:
        seconds: of its first sound.
    """

    def __init__(self, listed: Listed, config: DataConfig) -> None:
        if listed.error is not None:
            raise listed.error
        self.where = listed.where
        self.seconds = 0.0
        self._config = config
        self._audio: Path | None = None
        names = {name for name, _ in config.modalities}
        self.segments: list[tuple[str, str | np.ndarray]] = []
        for kind, value in listed.segments:
            name = _MODALITY[kind]
            if name not in names:
                raise DataError(
                    listed.where,
                    f"has {kind}, but setting {config.setting!r} has only "
                    f"{', '.join(sorted(names))}; choose a setting that has it",
                )
            self.segments.append((name, self._content(kind, value)))

    def _content(self, kind: str, value: str | Path) -> str | np.ndarray:
        if kind == "text":
            return str(value)
        if kind == "image":
            picture = read_image(value, self._config.max_pixels)
            return fit_image(picture, self._config.chosen("image_size"))
        frames = log_mel(read_sound(value, self._config.max_seconds)[0]).astype(np.float16)
        if self._audio is None:
            self._audio, self.seconds = Path(value), len(frames) * HOP / SAMPLE_RATE
        return frames

    def digest(self) -> bytes:
        """Of its content as it is trained on."""
        hashed = hashlib.sha256()
        for name, content in self.segments:
            data = content.encode() if isinstance(content, str) else content.tobytes()
            hashed.update(f"{name} {len(data)} ".encode())
            hashed.update(data)
        return hashed.digest()

    def example(self, heard: bool) -> Example:
        """Its texts, its first picture and, if `heard`, its first sound."""
        items: dict[str, Any] = {}
        for name, content in self.segments:
            if name != "speech":
                items.setdefault(name, content)
        if texts := [str(c) for name, c in self.segments if name == "text"]:
            items["text"] = "\n".join(texts)
        if self._audio is not None and heard:
            items["speech"] = read_sound(self._audio, self._config.max_seconds)
        return Example(items)


def _held_out(count: int, config: DataConfig) -> np.ndarray:
    """(count,) bool, true for at least one document and never for all."""
    many = min(max(1, round(count * config.validation_fraction)), count - 1)
    held = np.zeros(count, bool)
    held[np.random.default_rng([config.seed, 29]).permutation(count)[:many]] = True
    return held


def _corpus(documents: list[_Document], size: int) -> Corpus:
    images: list[np.ndarray] = []
    frames: list[np.ndarray] = []
    rows: list[list[Item]] = []
    for document in documents:
        row: list[Item] = []
        for name, content in document.segments:
            if isinstance(content, str):
                row.append((name, content))
                continue
            into = images if name == "image" else frames
            row.append((name, len(into)))
            into.append(content)
        rows.append(row)
    stacked = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
    return Corpus(rows, stacked, frames, where=[document.where for document in documents])
