"""The formula with all logits at once, under plain autograd; the op is held to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["linear_cross_entropy_reference"]


def linear_cross_entropy_reference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """(r,) losses of `linear_cross_entropy`, through a (r, V) tensor of logits."""
    logits = hidden @ weight.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if low is not None and high is not None:
        v = torch.arange(weight.shape[0], device=hidden.device)
        logits = logits.masked_fill((v < low[:, None]) | (v >= high[:, None]), -torch.inf)
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=ignore_index)
