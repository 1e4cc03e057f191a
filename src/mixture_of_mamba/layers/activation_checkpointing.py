"""Activation checkpointing of a block: only the outputs and chunk states of its scan are kept.

The scan takes most of a block's time, and its results little of its memory: y is one of about eight
(r, d) tensors of a block, the chunk states are a small part of one. So the backward recomputes
norm, projections, convolution and step sizes, but never a scan.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from ..ops.dispatch import prefer, preferences

__all__ = ["checkpoint_contexts", "checkpoint_policy"]


def checkpoint_policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """A policy for `torch.utils.checkpoint.create_selective_checkpoint_contexts`."""
    if op is torch.ops.mixture_of_mamba.selective_scan.default:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_contexts() -> Any:
    """The `context_fn` of `torch.utils.checkpoint.checkpoint(…, use_reentrant=False)`."""
    forward, recompute = create_selective_checkpoint_contexts(checkpoint_policy)
    if torch.compiler.is_compiling():  # the graph holds the backends; torch wants its own context
        return forward, recompute
    return forward, _WithBackendsOfForward(recompute)


class _WithBackendsOfForward(AbstractContextManager[None]):
    """What the forward kept is its backends' own. A backward may run in another thread, after
    `use_backend` has ended, and inside another one."""

    def __init__(self, recompute: AbstractContextManager[Any]) -> None:
        self._recompute, self._names = recompute, preferences()

    def __enter__(self) -> None:
        self._stack = ExitStack()
        self._stack.enter_context(prefer(self._names))
        self._stack.enter_context(self._recompute)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
