"""The record of a call of the sliced head loss, and of its gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["HeadGrads", "HeadInputs"]


class HeadInputs(NamedTuple):
    """One call.

    Attributes:
        hidden: (r, d) rows.
        weight: (V, d) of the head, in hidden's dtype.
        targets: (r,) int64; `ignore_index` marks rows without one.
        low, high: (r,) int64, each row's part of the vocabulary, [low, high); None: all of it.
        ignore_index: see targets.
        slice_rows: rows whose logits are held at a time.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    low: Tensor | None
    high: Tensor | None
    ignore_index: int
    slice_rows: int


class HeadGrads(NamedTuple):
    """Gradients in the shapes and dtypes of the inputs."""

    hidden: Tensor
    weight: Tensor
