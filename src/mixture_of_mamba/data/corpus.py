"""What every source of documents hands over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .errors import BadDocuments
from .examples import Example

__all__ = ["Corpus", "Item", "Source"]

Item = tuple[str, str | int]
"""(modality, content): a string for text, else an index into the corpus's arrays."""


@dataclass
class Corpus:
    """Documents of one split; pictures and sound are kept beside them.

    Attributes:
        documents: their items in order.
        images: (n, s, s, 3) uint8.
        frames: of each utterance its log-mel frames, (frames, MELS).
        where: of each document its file and line; empty where there are none to name.
    """

    documents: list[list[Item]]
    images: np.ndarray
    frames: Sequence[np.ndarray] = field(default_factory=list)
    where: Sequence[str] = ()

    def texts(self) -> list[str]:
        """Every text item."""
        return [str(c) for document in self.documents for name, c in document if name == "text"]


class Source(Protocol):
    """A source of documents, split into training and validation.

    What takes long may still be under way after construction: `training` may be read at once for
    its texts and images; `finish` waits for the rest.

    Attributes:
        training, validation: the two splits.
        text_fraction: share of text-only documents among all tokens; None: each once.
        bad: what becomes of documents that fail.
        notes: lines that a user should see about what was left out otherwise.
    """

    training: Corpus
    validation: Corpus
    text_fraction: float | None
    bad: BadDocuments
    notes: list[str]

    def finish(self) -> None:
        """Waits until every item of both corpora is there."""
        ...

    def stop(self) -> None:
        """Gives up what is still under way."""
        ...

    def examples(self) -> list[Example]:
        """Some validation documents in the raw; after `finish`."""
        ...
