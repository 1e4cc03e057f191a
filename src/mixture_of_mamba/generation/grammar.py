"""Which tokens may come next: one modality is open at a time, begin and end tokens switch it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Cursor", "Grammar", "Layout"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the modalities of a tokenizer set meet in one sequence.

    Ids count inside their own modality. A begin token is a text token. The end token is the
    modality's own where it is discrete, and a text token where it is continuous.

    Attributes:
        names: of the modalities, in the order of their ids; one of them is "text".
        kinds, sizes: "discrete" or "continuous", and vocabulary or vector width, of each.
        begin, end: by name of a modality other than text, the ids of its two tokens.
        fixed_length: by name, the number of tokens between the two; absent where it varies.
        document: text ids of the tokens that begin and end a document.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    begin: Mapping[str, int]
    end: Mapping[str, int]
    fixed_length: Mapping[str, int] = field(default_factory=dict)
    document: tuple[int, int]

    def __post_init__(self) -> None:
        if "text" not in self.names:
            raise ValueError(f"modalities {list(self.names)} have no 'text' to open the others")

    @classmethod
    def of(cls, tokenizers: TokenizerSet) -> Layout:
        """The layout of a tokenizer set."""
        names, kinds, sizes = zip(*tokenizers.modalities, strict=True)
        others = [name for name in names if name != "text"]
        lengths = {name: tokenizers.fixed_length(name) for name in others}
        return cls(
            names=names,
            kinds=kinds,
            sizes=sizes,
            begin={name: tokenizers.begin(name) for name in others},
            end={name: tokenizers.end(name) for name in others},
            fixed_length={name: n for name, n in lengths.items() if n is not None},
            document=(tokenizers.document_start, tokenizers.document_end),
        )

    @property
    def text(self) -> int:
        """Modality id of text."""
        return self.names.index("text")

    @property
    def special(self) -> frozenset[int]:
        """Text ids that are no words."""
        ends = (i for n, i in self.end.items() if self.kind(n) == "continuous")
        return frozenset([*self.document, *self.begin.values(), *ends])

    def index(self, name: str) -> int:
        """Modality id.

        Raises:
            ValueError: there is no such modality.
        """
        if name not in self.names:
            raise ValueError(f"this model has no modality {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def kind(self, name: str) -> str:
        """ "discrete" or "continuous"."""
        return self.kinds[self.index(name)]


class Cursor(NamedTuple):
    """Where a sequence stands: the open modality and how many of its tokens it holds so far."""

    modality: int
    length: int = 0


class Grammar:
    """Masks over the joint vocabulary and the moves between modalities.

    Args:
        layout: of the modalities.
        vocabulary_ranges: [low, high) of each modality in the joint vocabulary.
        may_open: modalities that generation may open by itself.
        stop: text ids that end a sequence; `</document>` always does.
        only: the sequence ends where the modality it starts in closes, and text holds at least one
            token before that.
    """

    def __init__(
        self,
        layout: Layout,
        vocabulary_ranges: tuple[tuple[int, int], ...],
        *,
        may_open: Collection[str] = (),
        stop: Collection[int] = (),
        only: bool = False,
    ) -> None:
        self.layout = layout
        self.ranges = vocabulary_ranges
        self.only = only
        self.stop = frozenset(stop) | {layout.document[1]}
        self._opens = {
            layout.begin[name]: layout.index(name) for name in may_open if name != "text"
        }
        self._masks: dict[tuple[int, str], Tensor] = {}

    def continuous(self, cursor: Cursor) -> bool:
        """Whether the open modality consists of vectors, which no softmax chooses."""
        return self.layout.kinds[cursor.modality] == "continuous"

    def mask(self, cursor: Cursor) -> Tensor:
        """(v,) bool over the joint vocabulary: what may be sampled here."""
        key = (cursor.modality, self._phase(cursor))
        if key not in self._masks:
            self._masks[key] = self._build(*key)
        return self._masks[key]

    def advance(self, cursor: Cursor, token: int) -> tuple[Cursor, bool]:
        """The cursor after a token of the open modality, and whether the sequence ends with it."""
        name = self.layout.names[cursor.modality]
        if name == "text":
            if token in self.stop:
                return cursor, True
            if token in self._opens:
                return Cursor(self._opens[token]), False
            return Cursor(cursor.modality, cursor.length + 1), False
        if token == self.layout.end[name]:
            return Cursor(self.layout.text), self.only
        cursor = Cursor(cursor.modality, cursor.length + 1)
        return cursor, self.only and cursor.length == self.layout.fixed_length.get(name)

    def _phase(self, cursor: Cursor) -> str:
        name = self.layout.names[cursor.modality]
        fixed = self.layout.fixed_length.get(name)
        if fixed is not None:
            return "start" if cursor.length < fixed else "end"
        return "any" if cursor.length or (name == "text" and not self.only) else "start"

    def _build(self, modality: int, phase: str) -> Tensor:
        layout = self.layout
        mask = torch.zeros(max(high for _, high in self.ranges), dtype=torch.bool)
        low, high = self.ranges[modality]
        name = layout.names[modality]
        if name == "text":
            mask[low:high] = True
            forbidden = layout.special
            if phase != "start":
                forbidden = forbidden - self.stop - self._opens.keys()
            mask[[low + i for i in forbidden]] = False
            return mask
        if phase != "end":
            mask[low:high] = True
        mask[low + layout.end[name]] = phase != "start"
        return mask
