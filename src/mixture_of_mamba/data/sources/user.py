"""A user's own interleaved documents, read once and split into training and validation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.data.sound import SAMPLE_RATE, log_mel, resample
from mixture_of_mamba.data.sources.corpus import Corpus, Item
from mixture_of_mamba.data.sources.errors import DataError
from mixture_of_mamba.data.sources.listing import Listed, list_documents
from mixture_of_mamba.data.sources.media import read_audio, read_image

__all__ = ["UserDocuments"]

EXAMPLES = 256
"""Validation documents that are kept in the raw."""

_MODALITY = {"text": "text", "image": "image", "audio": "speech"}


class UserDocuments:
    """Documents of `config.source`; a split by document, drawn from the seed.

    Raises:
        DataError: a document cannot be read, and `config.skip_bad` is off.
    """

    text_fraction: float | None = None

    def __init__(self, config: DataConfig) -> None:
        self.left_out: list[str] = []
        readable = []
        for listed in list_documents(Path(config.source)):
            try:
                readable.append(_Document(listed, config))
            except DataError as error:
                if not config.skip_bad:
                    raise DataError(
                        error.where,
                        f"{str(error).removeprefix(error.where + ': ')}; repair it, or leave such "
                        "documents out with data.skip_bad",
                    ) from error
                self.left_out.append(str(error))
        if len(readable) < 2:
            raise DataError(
                config.source,
                f"{len(readable)} readable documents ({len(self.left_out)} left out); at least 2 "
                "are needed, one to train on and one to hold out",
            )
        held = _held_out(len(readable), config)
        parts = {
            split: [d for d, h in zip(readable, held, strict=True) if h == (split == "validation")]
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
        """The first held-out documents."""
        return [document.example() for document in self._held[:EXAMPLES]]


class _Document:
    """One document with its pictures and sounds opened; sounds are kept as log-mel frames."""

    def __init__(self, listed: Listed, config: DataConfig) -> None:
        if listed.error is not None:
            raise listed.error
        names = {name for name, _ in config.modalities}
        self.segments: list[tuple[str, str | np.ndarray]] = []
        self._audio: Path | None = None
        for kind, value in listed.segments:
            name = _MODALITY[kind]
            if name not in names:
                raise DataError(
                    listed.where,
                    f"has {kind}, but setting {config.setting!r} has only "
                    f"{', '.join(sorted(names))}; choose a setting that has it",
                )
            self.segments.append((name, self._content(kind, value, listed.where, config)))
        self._where = listed.where

    def _content(
        self, kind: str, value: str | Path, where: str, config: DataConfig
    ) -> str | np.ndarray:
        if kind == "text":
            return str(value)
        path = Path(value)
        if kind == "image":
            return read_image(path, config.chosen("image_size"), where)
        self._audio = self._audio or path
        return log_mel(resample(*read_audio(path, where))).astype(np.float16)

    def example(self) -> Example:
        """Its texts, its first picture and its first sound."""
        images = [c for name, c in self.segments if name == "image"]
        audio = resample(*read_audio(self._audio, self._where)) if self._audio else None
        return Example(
            caption="\n".join(str(c) for name, c in self.segments if name == "text"),
            facts=(),
            image=np.asarray(images[0]) if images else None,
            audio=audio,
            sample_rate=SAMPLE_RATE if audio is not None else None,
        )


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
    return Corpus(rows, stacked, frames)
