"""What every source of documents hands over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import BadDocuments
from .examples import Example

__all__ = ["Corpus", "Item", "Source"]

Item = tuple[str, str | int]
"""(modality, content): a string for text, else an index into the corpus's items."""


@dataclass
class Corpus:
    """Documents of one split; what is not text is kept beside them.

    Attributes:
        documents: their items in order.
        items: of each modality other than text its items, as its codec's `prepare` gives them; a
            modality that is still under way is not there.
        where: of each document its file and line; empty where there are none to name.
    """

    documents: list[list[Item]]
    items: dict[str, Sequence[Any]] = field(default_factory=dict)
    where: Sequence[str] = ()

    def texts(self) -> list[str]:
        """Every text item."""
        return [str(c) for document in self.documents for name, c in document if name == "text"]


class Source(Protocol):
    """A source of documents, split into training and validation.

    What takes long may still be under way after construction: `training` may be read at once for
    its texts and the items that are there; `finish` waits for the rest.

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
        """Some validation documents untokenized; after `finish`."""
        ...
