"""The record that every modality_linear backend reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LinearInputs"]


@dataclass(frozen=True, slots=True)
class LinearInputs:
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
