"""Which tokens may come next: one modality is open at a time, begin and end tokens switch it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Cursor", "Grammar"]


class Cursor(NamedTuple):
    """Where a sequence stands: the open modality and how many of its tokens it holds so far."""

    modality: int
    length: int = 0


class Grammar:
    """Masks over the joint vocabulary and the moves between modalities.

    Args:
        tokenizers: of the modalities.
        vocabulary_ranges: [low, high) of each modality in the joint vocabulary.
        may_open: modalities that generation may open by itself.
        stop: text ids that end a sequence; `</document>` always does.
        only: the sequence ends where the modality it starts in closes, and text holds at least one
            token before that.
    """

    def __init__(
        self,
        tokenizers: TokenizerSet,
        vocabulary_ranges: tuple[tuple[int, int], ...],
        *,
        may_open: Collection[str] = (),
        stop: Collection[int] = (),
        only: bool = False,
    ) -> None:
        self.tokenizers = tokenizers
        self.ranges = vocabulary_ranges
        self.only = only
        self.stop = frozenset(stop) | {tokenizers.document[1]}
        self._opens = {
            token: tokenizers.index(name)
            for name, token in tokenizers.begin.items()
            if name in may_open
        }
        self._masks: dict[tuple[int, str], Tensor] = {}

    def continuous(self, cursor: Cursor) -> bool:
        """Whether the open modality consists of vectors, which no softmax chooses."""
        return self.tokenizers.kinds[cursor.modality] == "continuous"

    def mask(self, cursor: Cursor) -> Tensor:
        """(v,) bool over the joint vocabulary: what may be sampled here."""
        key = (cursor.modality, self._phase(cursor))
        if key not in self._masks:
            self._masks[key] = self._build(*key)
        return self._masks[key]

    def advance(self, cursor: Cursor, token: int) -> tuple[Cursor, bool]:
        """The cursor after a token of the open modality, and whether the sequence ends with it."""
        if cursor.modality == self.tokenizers.text_id:
            if token in self.stop:
                return cursor, True
            if token in self._opens:
                return Cursor(self._opens[token]), False
            return Cursor(cursor.modality, cursor.length + 1), False
        name = self.tokenizers.names[cursor.modality]
        if token == self.tokenizers.end[name]:
            return Cursor(self.tokenizers.text_id), self.only
        cursor = Cursor(cursor.modality, cursor.length + 1)
        return cursor, self.only and cursor.length == self.tokenizers.fixed_length.get(name)

    def _phase(self, cursor: Cursor) -> str:
        name = self.tokenizers.names[cursor.modality]
        fixed = self.tokenizers.fixed_length.get(name)
        if fixed is not None:
            return "start" if cursor.length < fixed else "end"
        text = cursor.modality == self.tokenizers.text_id
        return "any" if cursor.length or (text and not self.only) else "start"

    def _build(self, modality: int, phase: str) -> Tensor:
        tokenizers = self.tokenizers
        mask = torch.zeros(max(high for _, high in self.ranges), dtype=torch.bool)
        low, high = self.ranges[modality]
        if modality == tokenizers.text_id:
            mask[low:high] = True
            forbidden = tokenizers.special
            if phase != "start":
                forbidden = forbidden - self.stop - self._opens.keys()
            mask[[low + i for i in forbidden]] = False
            return mask
        if phase != "end":
            mask[low:high] = True
        name = tokenizers.names[modality]
        mask[low + tokenizers.end[name]] = phase != "start"
        return mask
