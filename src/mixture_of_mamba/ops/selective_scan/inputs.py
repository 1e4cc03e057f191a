"""The record that every scan backend reads, and the one that its backward returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

__all__ = ["ScanGrads", "ScanInputs"]


@dataclass(frozen=True, slots=True)
class ScanInputs:
    """One call, in rows (`r = b * t`); channels are contiguous, rows may be strided.

    Attributes:
        u, delta: (r, d) input and step size.
        A: (d, n) float32 (float64 with float64 inputs), < 0.
        B, C: (r, n).
        D: (d,) skip, or None.
        z: (r, d) gate, or None.
        delta_bias: (m, d) added to delta before softplus, or None.
        rows: (b, t) int32, row of each position; None: row = position.
        modality: (b, t) int32, which row of delta_bias a position takes; None: row 0.
        resets: (b, t) bool, zero the state before this position; None: never.
        state: (b, d, n) initial state in A's dtype, or None for zeros.
        batch, length: `b`, `t`.
        softplus: delta = softplus(delta + bias) when True, delta + bias when False.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    rows: Tensor | None
    modality: Tensor | None
    resets: Tensor | None
    state: Tensor | None
    batch: int
    length: int
    softplus: bool

    @property
    def device_type(self) -> str:
        return self.u.device.type

    @property
    def d(self) -> int:
        return self.u.shape[1]

    @property
    def n(self) -> int:
        return self.A.shape[1]


class ScanGrads(NamedTuple):
    """Gradients in the shapes and dtypes of the inputs; None for absent inputs."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    state: Tensor | None
