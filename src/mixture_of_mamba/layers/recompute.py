"""What a recomputed block keeps: the scan's outputs and checkpoints, nothing else.

The scan takes the most time of a block and its results little memory, next to its inputs: y is one
of about eight (r, d) tensors of a block, the checkpoints a small part of one. So the backward
recomputes norm, projections, convolution and step sizes, and never a scan.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

__all__ = ["checkpoint_contexts", "checkpoint_policy"]


def checkpoint_policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """A policy for `torch.utils.checkpoint.create_selective_checkpoint_contexts`."""
    if op is torch.ops.mixture_of_mamba.selective_scan.default:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_contexts() -> Any:
    """The `context_fn` of `torch.utils.checkpoint.checkpoint(…, use_reentrant=False)`."""
    return create_selective_checkpoint_contexts(checkpoint_policy)
