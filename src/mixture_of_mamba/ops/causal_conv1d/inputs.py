"""The record that every convolution backend reads, and the one that its backward returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["ConvGrads", "ConvInputs"]


@dataclass(frozen=True, slots=True)
class ConvInputs:
    """One call, in rows (`r = b * t`); channels are contiguous, rows may be strided.

    Attributes:
        x: (r, d) input.
        weight: (d, k) taps, the last one meets the present.
        bias: (d,) or None.
        rows: (b, t) int32, row of each position; None: row = position.
        resets: (b, t) bool, where a document starts: nothing before it is seen; None: never.
        state: (b, k-1, d) the inputs before t = 0, oldest first, in x's dtype; None for zeros.
        batch, length: `b`, `t`.
        silu: apply SiLU to the result.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    rows: Tensor | None
    resets: Tensor | None
    state: Tensor | None
    batch: int
    length: int
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
