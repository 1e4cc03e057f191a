"""What each position is to predict: the next token of its own document."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batch import Batch

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
    modality = torch.zeros_like(batch.modality_ids)
    modality[:, :-1] = batch.modality_ids[:, 1:]
    ids = torch.zeros_like(batch.tokens)
    ids[:, :-1] = batch.tokens[:, 1:]
    ids = ids + low[modality]
    counts = torch.ones_like(batch.modality_ids, dtype=torch.bool)
    counts[:, -1:] = False
    if batch.document_ids is not None:
        counts[:, :-1] &= batch.document_ids[:, 1:] == batch.document_ids[:, :-1]
    if fresh is not None:
        counts[:, :-1] &= ~fresh[:, 1:]
    if batch.loss_mask is not None:
        counts[:, :-1] &= batch.loss_mask[:, 1:]
    return Targets(ids, modality, counts & discrete[modality])
