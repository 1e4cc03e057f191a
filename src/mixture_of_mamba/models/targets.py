"""What each position is to predict: the next token of its own document."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..batch import Batch

__all__ = ["Targets", "next_tokens"]


class Targets(NamedTuple):
    """Per position: id in the joint vocabulary, modality of the target, and whether it counts.

    Shapes: all (b, t).
    """

    ids: Tensor
    modality: Tensor
    counts: Tensor


def next_tokens(
    batch: Batch, low: Tensor, discrete: Tensor, fresh: Tensor | None = None
) -> Targets:
    """Targets of a batch.

    Args:
        batch: the windows.
        low: (m,) int64, start of each modality's vocabulary in the joint one.
        discrete: (m,) bool, which modalities have cross entropy.
        fresh: (b, t) bool, further tokens that begin with an empty state, and are no target.
    """
    # Turned, not cut: a slice of t - 1 would bound the lengths that an exported program takes.
    last = torch.arange(batch.shape[1], device=batch.tokens.device) == batch.shape[1] - 1
    modality = batch.modality_ids.roll(-1, 1).masked_fill(last, 0)
    ids = batch.tokens.roll(-1, 1).masked_fill(last, 0) + low[modality]
    counts = (~last).expand(batch.shape)
    if batch.document_ids is not None:
        counts = counts & (batch.document_ids.roll(-1, 1) == batch.document_ids)
    if fresh is not None:
        counts = counts & ~fresh.roll(-1, 1)
    if batch.loss_mask is not None:
        counts = counts & batch.loss_mask.roll(-1, 1)
    return Targets(ids, modality, counts & discrete[modality])
