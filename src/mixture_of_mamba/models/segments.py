"""Segments of continuous modalities: the rows, positions and context of every image of a batch.

An image has one noise level, so a position must know its image: `Batch.segment_ids` says so, or
each unbroken run of one modality in a document is a segment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from ..ops import Routing

__all__ = ["Segments", "before_captions", "draw_fresh_starts", "find_segments"]


class Segments(NamedTuple):
    """The `p` positions of one continuous modality, in (b, t) order.

    Attributes:
        rows: (p,) int64, their rows in the routing's order.
        segment_index: (p,) int64, which segment of this modality (0, 1, …) a position belongs to.
        position: (p,) int64, index within the segment.
        precedes_caption: (p,) bool, the segment stands before its caption.
        mask: (p,) bool, the position counts in the loss.
    """

    rows: Tensor
    segment_index: Tensor
    position: Tensor
    precedes_caption: Tensor
    mask: Tensor


def find_segments(
    batch: Batch, routing: Routing, modality: int, count: int, precedes_caption: Tensor
) -> Segments:
    """The segments of one modality; nothing is read back from the device.

    Args:
        routing: of the batch, with its documents.
        count: number of positions `p`, known from the batch's values.
        precedes_caption: (b, t) bool from `before_captions`.
    """
    device = batch.modality_ids.device
    index = torch.arange(count, device=device)
    # Rows are sorted by modality and stable in (b, t): one slice, in the order of the values.
    rows = index + (routing.offsets[modality - 1] if modality else 0)

    def at_rows(x: Tensor) -> Tensor:
        return routing.to_rows(x)[rows]

    given = batch.segment_ids
    segment = at_rows(unbroken_runs(batch, routing.resets) if given is None else given)
    first = torch.ones_like(segment, dtype=torch.bool)
    first[1:] = segment[1:] != segment[:-1]
    start = torch.where(first, index, 0).cummax(0).values if count else index
    mask = torch.ones_like(first) if batch.loss_mask is None else at_rows(batch.loss_mask)
    return Segments(rows, first.cumsum(0) - 1, index - start, at_rows(precedes_caption), mask)


def unbroken_runs(batch: Batch, starts: Tensor | None) -> Tensor:
    """(b, t) index of the run of one modality, in one document, that a position belongs to.

    Args:
        starts: (b, t) bool, first tokens of documents; None: one document per window.
    """
    ids = batch.modality_ids
    new = torch.ones_like(ids, dtype=torch.bool)
    new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    new = new if starts is None else new | starts
    return new.view(-1).cumsum(0).view(ids.shape)


def before_captions(
    batch: Batch, starts: Tensor | None, discrete: Tensor, most_before: int
) -> Tensor:
    """(b, t) bool: at most `most_before` discrete tokens of the document stand before the position,
    and more than that after it.

    Args:
        starts: (b, t) bool, first tokens of documents; None: one document per window.
        discrete: (m,) bool.
    """
    tokens = discrete[batch.modality_ids].long()
    before = tokens.cumsum(1) - tokens
    after = tokens.sum(1, keepdim=True) - before - tokens
    if starts is not None:
        # of the document alone: subtract what stands before its start, and after its end
        before = before - torch.where(starts, before, 0).cummax(1).values
        ends = torch.zeros_like(starts)
        ends[:, :-1] = starts[:, 1:]
        after = after - torch.where(ends, after, 0).flip(1).cummax(1).values.flip(1)
    return (before <= most_before) & (after > most_before)


def draw_fresh_starts(
    batch: Batch, discrete: Tensor, chance: float, generator: torch.Generator | None
) -> Tensor:
    """(b, t) bool: the begin tokens of some continuous segments, where the state is to be empty.

    A state-space model then meets the image without its context: the caption is dropped without
    touching a token, and the document stays the same one for whoever carries a state on.

    Args:
        discrete: (m,) bool.
        chance: of each segment.
        generator: of the draws, on the batch's device, or None.
    """
    device = batch.tokens.device
    draws = torch.rand(batch.shape, generator=generator, device=device, dtype=torch.float32)
    kind = ~discrete[batch.modality_ids]
    starts = torch.zeros_like(kind)
    starts[:, :-1] = kind[:, 1:] & ~kind[:, :-1] & (draws[:, :-1] < chance)
    return starts
