"""The protocol of a modality: one class that turns items into tokens and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .media import Media
from .options import CodecOptions

__all__ = ["Codec"]


class Codec(ABC):
    """Items of one modality <-> tokens: ids of a vocabulary, or vectors.

    A subclass is registered under its name (`modalities.registry.register`); a run's config then
    lists it with its options. An item is what `media` reads from a file.

    Attributes:
        codec: its name in configs.
        media: how its items look as files.
        Options: frozen dataclass of its options, a subclass of CodecOptions.
        kind: "discrete" (ids) or "continuous" (vectors).
        size: ids with the end token, which is the last of them (discrete), or the width of a
            vector (continuous). Of text: its tokens; the special tokens belong to the TokenizerSet.
        fixed_length: tokens of every item, without begin and end; None: they vary.
        max_length: most tokens of an item whose tokens vary and which is never cut, whole cycles;
            None: no bound.
        cycle: (low, high) of the ids that may stand at each place of a pattern that an item
            repeats, such as one id of each codebook of an audio codec; an item holds whole cycles.
            Empty: any id, anywhere.
        cannot_decode: why ids or vectors cannot be made into items, and what can; None: they can.
        options: what this codec is; recorded with it.
        version: of its training, where that takes long: a codec with a version is kept in the data
            cache; raise it when the training changes.
    """

    codec: ClassVar[str]
    media: ClassVar[Media]
    Options: ClassVar[type[CodecOptions]]
    kind: str
    size: int
    fixed_length: int | None = None
    max_length: int | None = None
    cycle: tuple[tuple[int, int], ...] = ()
    cannot_decode: str | None = None
    options: Any
    version: ClassVar[int | None] = None

    @classmethod
    def prepare(cls, item: Any, options: Any) -> Any:
        """What is kept of an item until it is encoded: by default the item itself. A string, or an
        array, such as an image of the codec's size or the frames of an utterance."""
        return item

    @classmethod
    def example(cls, item: Any, prepared: Any, options: Any) -> Any:
        """What of an item is kept untokenized for examples: an item too. None: the file is read
        again. By default what is prepared of something that stands still, such as an image."""
        return None if cls.media.seconds(item) else prepared

    @classmethod
    def remark(cls, item: Any, options: Any) -> str | None:
        """What `prepare` leaves out of an item that a user should know of, such as the end of a
        long one; in the same words for every item, which are counted. None: nothing."""
        return None

    @classmethod
    @abstractmethod
    def fit(
        cls,
        prepared: Sequence[Any],
        options: Any,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> Self:
        """A codec for training items; equal arguments give equal codecs in every process.

        Args:
            prepared: of the training split, as `prepare` gives them; at least one.
            report: takes lines about the progress.

        Raises:
            ValueError: the items do not suffice, or do not fit the options.
        """

    @abstractmethod
    def encode(self, prepared: Sequence[Any]) -> list[np.ndarray]:
        """Of each prepared item its ids, (tokens,) int64, or vectors, (tokens, size) float32."""

    @abstractmethod
    def decode(self, tokens: Sequence[np.ndarray]) -> list[Any]:
        """Items of ids or vectors, without begin and end.

        Raises:
            ValueError: a wrong number of them, ids that are none of this codec, or `cannot_decode`.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write everything that `load` needs, the options among it, as safetensors and JSON."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """The codec that `save` wrote."""
