"""The record that every modality_linear backend reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LinearGrads", "LinearInputs"]


class LinearInputs(NamedTuple):
    """One call: rows sorted by modality, `m` experts.

    Attributes:
        x: (r, in) rows; they may be strided, channels are contiguous.
        weight: (m, out, in) stacked experts.
        bias: (m, out) or None.
        offsets: (m,) int32, end of each expert's rows, on x's device.
        host_offsets: the same on the CPU, where experts at the end that have no rows may be
            missing; None where that would need a synchronisation.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    offsets: Tensor
    host_offsets: Tensor | None

    @property
    def device_type(self) -> str:
        return self.x.device.type

    def experts(self) -> Tensor:
        """(r,) int64, expert of each row; nothing is read on the host."""
        row = torch.arange(self.x.shape[0], device=self.x.device, dtype=self.offsets.dtype)
        return torch.searchsorted(self.offsets, row, right=True)


class LinearGrads(NamedTuple):
    """Gradients of an op's rows and parameters; None where they are not needed."""

    x: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
