"""The labels that count, and logits over the vocabulary of each token's own modality."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

__all__ = ["counted_labels", "own_vocabulary", "shifted", "warn_of_uncounted"]

IGNORED = -100


def counted_labels(real: Tensor | None, documents: Tensor | None, labels: Tensor) -> Tensor:
    """(b, t) bool, False where a token is no target: padding, and first tokens of rows and
    documents.

    Args:
        real: (b, t) bool, False at padding.
        documents: (b, t) document of each token.
        labels: (b, t), for shape and device.
    """
    counted = torch.ones_like(labels, dtype=torch.bool)
    if real is not None:
        counted &= real & (real.long().cumsum(1) > 1)
    if documents is not None:
        counted[:, 1:] &= documents[:, 1:] == documents[:, :-1]
    return counted


def warn_of_uncounted(labels: Tensor, counted: Tensor) -> None:
    """Warn where a caller's count of labels (b, t) holds some that are no targets."""
    lost = int(((labels[:, 1:] != IGNORED) & ~counted[:, 1:]).sum())
    if lost:
        warnings.warn(
            f"{lost} labels are counted in num_items_in_batch, but are no targets: padding, or "
            "first tokens of documents or of rows that are padded on the left. The loss is divided "
            "by too many; give these the label -100, or pad on the right",
            stacklevel=2,
        )


def shifted(labels: Tensor) -> Tensor:
    """(b, t) label of the token after each position; none after the last."""
    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def own_vocabulary(logits: Tensor, targets: Tensor, ranges: Tensor) -> Tensor:
    """Logits outside the vocabulary of the target's modality set to -inf.

    Args:
        logits: (b, t, joint vocabulary).
        targets: (b, t) joint id that each position is to predict; negative where none.
        ranges: (m, 2) each modality's [low, high).
    """
    modality = torch.bucketize(targets.clamp(min=0), ranges[:, 1].contiguous(), right=True)
    low, high = ranges[modality].unbind(-1)
    column = torch.arange(logits.shape[-1], device=logits.device)
    outside = (column < low[..., None]) | (column >= high[..., None])
    return logits.masked_fill(outside, -torch.inf)
