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


class Place(NamedTuple):
    """What decides which ids may come: whether more of the item may, whether its end may, and the
    place in the codec's cycle."""

    may_go_on: bool
    may_end: bool
    at: int = 0


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
        self._masks: dict[tuple[int, Place], Tensor] = {}

    def continuous(self, cursor: Cursor) -> bool:
        """Whether the open modality consists of vectors, which no softmax chooses."""
        return self.tokenizers.kinds[cursor.modality] == "continuous"

    def mask(self, cursor: Cursor) -> Tensor:
        """(v,) bool over the joint vocabulary: what may be sampled here."""
        text = cursor.modality == self.tokenizers.text_id
        place = self._text_place(cursor) if text else self._place(cursor)
        key = (cursor.modality, place)
        if key not in self._masks:
            build = self._text_mask if text else self._item_mask
            self._masks[key] = build(cursor.modality, place)
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

    def _text_place(self, cursor: Cursor) -> Place:
        """Of text, whether it may end."""
        return Place(True, bool(cursor.length) or not self.only)

    def _place(self, cursor: Cursor) -> Place:
        """Inside an item of another modality."""
        name = self.tokenizers.names[cursor.modality]
        fixed = self.tokenizers.fixed_length.get(name)
        cycle = self.tokenizers.cycle.get(name, ())
        at = cursor.length % len(cycle) if cycle else 0
        if fixed is not None:
            return Place(cursor.length < fixed, cursor.length >= fixed, at)
        most = self.tokenizers.max_length.get(name)
        return Place(most is None or cursor.length < most, cursor.length > 0 and at == 0, at)

    def _text_mask(self, modality: int, place: Place) -> Tensor:
        low, high = self.ranges[modality]
        mask = self._nothing()
        mask[low:high] = True
        forbidden = self.tokenizers.special
        if place.may_end:
            forbidden = forbidden - self.stop - self._opens.keys()
        mask[[low + i for i in forbidden]] = False
        return mask

    def _item_mask(self, modality: int, place: Place) -> Tensor:
        low, high = self.ranges[modality]
        name = self.tokenizers.names[modality]
        mask = self._nothing()
        if place.may_go_on:
            cycle = self.tokenizers.cycle.get(name)
            first, last = cycle[place.at] if cycle else (0, high - low)
            mask[low + first : low + last] = True
        mask[low + self.tokenizers.end[name]] = place.may_end
        return mask

    def _nothing(self) -> Tensor:
        return torch.zeros(max(high for _, high in self.ranges), dtype=torch.bool)
