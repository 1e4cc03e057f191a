"""The record that every convolution backend reads, and the one that its backward returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..routing import RowIndex

__all__ = ["ConvGrads", "ConvInputs"]


class ConvInputs(NamedTuple):
    """One call, in rows (`r = b * t`); channels are contiguous, rows may be strided.

    Attributes:
        x: (r, d) input.
        weight: (d, k) taps, the last one meets the present.
        bias: (d,) or None.
        state: (b, k-1, d) the inputs before t = 0, oldest first, in x's dtype; None for zeros.
        row_index: row of each position; nothing before one of its resets is seen after it.
        silu: apply SiLU to the result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    state: Tensor | None
    row_index: RowIndex
    silu: bool

    @property
    def device_type(self) -> str:
        return self.x.device.type

    @property
    def d(self) -> int:
        return self.weight.shape[0]

    @property
    def k(self) -> int:
        return self.weight.shape[1]


class ConvGrads(NamedTuple):
    """Gradients in the shapes and dtypes of the inputs; None for absent inputs."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    state: Tensor | None
