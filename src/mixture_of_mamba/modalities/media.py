"""Media: how the items of a modality look as files, in prompts and in reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..files import write_text
from .input_checks import check_text, readable_file

__all__ = ["MAX_PIXELS", "MAX_SECONDS", "TEXT", "Limits", "Media"]

#: Most pixels of an image that is decoded; a larger one is refused by its header.
MAX_PIXELS = 50_000_000
#: Longest sound or video that is read, seconds; a longer one is refused by its header.
MAX_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may hold at most; protects the memory of whoever reads it."""

    max_pixels: int = MAX_PIXELS
    max_seconds: float = MAX_SECONDS


class Media(ABC):
    """Files of one medium <-> items. One instance serves all modalities of the medium.

    Attributes:
        name: "text", "image", "sound", ...
        suffixes: of its files, in lower case with the dot; the first is written by default.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def read(self, path: str | Path, limits: Limits | None = None) -> Any:
        """The item of a file; `limits` None: the default ones.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, of another kind or above the limits.
        """

    @abstractmethod
    def write(self, path: str | Path, item: Any) -> None:
        """Write an item; the suffix names the format.

        Raises:
            ValueError: a suffix of no format of this medium.
            WriteError: the file could not be written.
        """

    @abstractmethod
    def check(self, item: Any, where: str) -> Any:
        """The item as `read` would give it.

        Args:
            where: what an error calls it, such as "the image of prompt 0".

        Raises:
            ValueError: an item of a wrong type or shape.
        """

    @abstractmethod
    def show(self, item: Any) -> tuple[str, bytes]:
        """(suffix, content) of a small file for reports: .txt, .png, .webp (moving) or .wav."""

    def seconds(self, item: Any) -> float:
        """How long an item lasts; 0 of one that stands still."""
        return 0.0

    def keep(self, item: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """An item as an array, and what else belongs to it as plain values; `kept` undoes it. An
        item that is an array is that array."""
        return np.ascontiguousarray(item), {}

    def kept(self, array: np.ndarray, facts: dict[str, Any]) -> Any:
        """The item of what `keep` gave."""
        return array

    def differences(self, item: Any, again: Any) -> dict[str, float]:
        """How far an item is from what a codec made of it, by the name of the measure with its
        unit; nothing where the medium has no measure."""
        return {}

    def write_all(self, path: str | Path, items: Sequence[Any]) -> list[Path]:
        """Write several items, by default into numbered files; the files that were written."""
        path = Path(path)
        paths = [path]
        if len(items) > 1:
            paths = [path.with_stem(f"{path.stem}-{i}") for i in range(len(items))]
        for file, item in zip(paths, items, strict=True):
            self.write(file, item)
        return paths


class _TextMedia(Media):
    """Strings; UTF-8 files."""

    name = "text"
    suffixes = (".txt", ".md")

    def read(self, path: str | Path, limits: Limits | None = None) -> str:
        path = readable_file(path, "text")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"text {path} cannot be read (it is not UTF-8: {error})") from error

    def write(self, path: str | Path, item: str) -> None:
        write_text(path, item.strip() + "\n")

    def write_all(self, path: str | Path, items: Sequence[str]) -> list[Path]:
        """All of them in one file, one after the other."""
        self.write(path, "\n".join(item.strip() for item in items))
        return [Path(path)]

    def check(self, item: Any, where: str) -> str:
        if not isinstance(item, str):
            raise ValueError(f"{where} is {type(item).__name__}; give a string")
        if not item.strip():
            raise ValueError(f"{where} is empty; say what is wanted")
        return check_text(item)

    def differences(self, item: str, again: str) -> dict[str, float]:
        """Whether it is the same text, 1 or 0."""
        return {"equal": float(item == again)}

    def show(self, item: str) -> tuple[str, bytes]:
        return ".txt", item.encode("utf-8", "replace")


TEXT: Media = _TextMedia()
