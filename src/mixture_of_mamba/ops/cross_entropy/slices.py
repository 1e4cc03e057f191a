"""The logits of a call a slice of rows at a time, over the words that the slice's ranges touch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .inputs import HeadInputs

__all__ = ["Product", "check_targets", "products", "products_in_place", "touched"]


class Product(NamedTuple):
    """A slice of the logits.

    Attributes:
        rows, words: which ones.
        logits: (rows, words) in hidden's dtype; may be overwritten.
    """

    rows: slice
    words: slice
    logits: Tensor


def products(inputs: HeadInputs) -> Iterator[Product]:
    """All rows, as many at a time as the call says."""
    hidden, weight = inputs.hidden, inputs.weight
    for start in range(0, hidden.shape[0], inputs.slice_rows):
        rows = slice(start, min(start + inputs.slice_rows, hidden.shape[0]))
        words = touched(inputs, rows)
        yield Product(rows, words, hidden[rows] @ weight[words].T)


def products_in_place(inputs: HeadInputs, most_rows: int) -> Iterator[Product]:
    """The same with fewer rows at a time, each product in the place of the one before."""
    hidden, weight = inputs.hidden, inputs.weight
    step = min(most_rows, inputs.slice_rows, max(1, hidden.shape[0]))
    place = hidden.new_empty(step * weight.shape[0])
    for start in range(0, hidden.shape[0], step):
        rows = slice(start, min(start + step, hidden.shape[0]))
        words = touched(inputs, rows)
        shape = (rows.stop - rows.start, words.stop - words.start)
        logits = place[: shape[0] * shape[1]].view(shape)
        yield Product(rows, words, torch.mm(hidden[rows], weight[words].T, out=logits))


def touched(inputs: HeadInputs, rows: slice) -> slice:
    """The words that the ranges of some rows touch; all where reading the ranges would wait."""
    low, high, vocabulary = inputs.low, inputs.high, inputs.weight.shape[0]
    if low is None or high is None or low.device.type != "cpu" or not low[rows].numel():
        return slice(0, vocabulary)
    first = min(int(low[rows].min()), vocabulary - 1)
    return slice(first, max(int(high[rows].max()), first + 1))


def check_targets(inputs: HeadInputs) -> None:
    _, weight, targets, low, high, ignore_index, _ = inputs
    vocabulary = weight.shape[0]
    first = torch.zeros_like(targets) if low is None else low
    end = torch.full_like(targets, vocabulary) if high is None else high
    if bool(((first < 0) | (end > vocabulary)).any()):
        raise ValueError(f"low and high must lie in 0..{vocabulary}, the rows of weight")
    wrong = ((targets < first) | (targets >= end)) & (targets != ignore_index)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"targets[{row}] is {int(targets[row])}, but row {row} has words "
            f"{int(first[row])}..{int(end[row]) - 1}; mark rows without a target by {ignore_index}"
        )
