"""The record that every scan backend reads, and the one that its backward returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..routing import RowIndex

__all__ = ["ScanGrads", "ScanInputs"]


class ScanInputs(NamedTuple):
    """One call, in rows (`r = b * t`); channels are contiguous, rows may be strided.

    Attributes:
        u, delta: (r, d) input and step size.
        A: (d, n) float32 (float64 with float64 inputs), < 0.
        B, C: (r, n).
        D: (d,) skip, or None.
        z: (r, d) gate, or None.
        delta_bias: (m, d) added to delta before softplus, or None.
        state: (b, d, n) initial state in A's dtype, or None for zeros.
        row_index: row of each position, and where the state is zeroed.
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
    state: Tensor | None
    row_index: RowIndex
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

    @property
    def bias_rows(self) -> Tensor | None:
        """(b, t) int32, the row of delta_bias that each position takes; None: row 0, or no bias."""
        several = self.delta_bias is not None and self.delta_bias.shape[0] > 1
        return self.row_index.modality if several else None


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
