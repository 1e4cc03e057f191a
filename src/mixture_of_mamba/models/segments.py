"""Where continuous segments stand: the rows, place and context of every image of a batch.

An image has one noise level, so a position must know its image: `Batch.segment_ids` says so, or
each unbroken run of one modality in a document is a segment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch
from ..ops import Routing
from ..ops.routing import document_starts

__all__ = ["Segments", "before_captions", "draw_fresh_starts", "find_segments"]


class Segments(NamedTuple):
    """The `p` positions of one continuous modality, in (b, t) order.

    Attributes:
        rows: (p,) int64, their rows in the routing's order.
        number: (p,) int64, which segment of this modality (0, 1, …) a position belongs to.
        place: (p,) int64, index within the segment.
        leads: (p,) bool, the segment stands before its caption.
        counts: (p,) bool, the position counts in the loss.
    """

    rows: Tensor
    number: Tensor
    place: Tensor
    leads: Tensor
    counts: Tensor


def find_segments(
    batch: Batch, routing: Routing, modality: int, count: int, leads: Tensor
) -> Segments:
    """The segments of one modality; nothing is read back from the device.

    Args:
        count: number of positions `p`, known from the batch's values.
        leads: (b, t) bool from `before_captions`.
    """
    device = batch.modality_ids.device
    index = torch.arange(count, device=device)
    # rows are sorted by modality and stable in (b, t): one slice, in the order of the values
    rows = index + (routing.offsets[modality - 1] if modality else 0)

    def pick(x: Tensor) -> Tensor:
        return routing.to_rows(x)[rows]

    segment = pick(unbroken_runs(batch) if batch.segment_ids is None else batch.segment_ids)
    first = torch.ones_like(segment, dtype=torch.bool)
    first[1:] = segment[1:] != segment[:-1]
    start = torch.where(first, index, 0).cummax(0).values if count else index
    counts = torch.ones_like(first) if batch.loss_mask is None else pick(batch.loss_mask)
    return Segments(rows, first.cumsum(0) - 1, index - start, pick(leads), counts)


def unbroken_runs(batch: Batch) -> Tensor:
    """(b, t) number of the run of one modality, in one document, that a position belongs to."""
    ids = batch.modality_ids
    new = torch.ones_like(ids, dtype=torch.bool)
    new[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = document_starts(batch.document_ids, ids.shape)
    new = new if starts is None else new | starts
    return new.view(-1).cumsum(0).view(ids.shape)


def before_captions(batch: Batch, discrete: Tensor, opening: int) -> Tensor:
    """(b, t) bool: at most `opening` discrete tokens of the document stand before the position, and
    more than that after it.

    Args:
        discrete: (m,) bool.
    """
    tokens = discrete[batch.modality_ids].long()
    before = tokens.cumsum(1) - tokens
    after = tokens.sum(1, keepdim=True) - before - tokens
    starts = document_starts(batch.document_ids, batch.modality_ids.shape)
    if starts is not None:
        # of the document alone: take off what stood before its start, and after its end
        before = before - torch.where(starts, before, 0).cummax(1).values
        ends = torch.zeros_like(starts)
        ends[:, :-1] = starts[:, 1:]
        after = after - torch.where(ends, after, 0).flip(1).cummax(1).values.flip(1)
    return (before <= opening) & (after > opening)


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
