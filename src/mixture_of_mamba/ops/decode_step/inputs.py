"""The record that every backend of the decode step prepares."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..mamba_block import Weights

__all__ = ["FORMATS", "StepInputs"]

FORMATS = ("float32", "bfloat16", "int8")


class StepInputs(NamedTuple):
    """The weights of a model, see `DecodeStep`.

    Attributes:
        blocks: of one shape.
        eps: of all norms.
        final_norm: (d_model,), or None.
        head: (v, d_model), or None.
        format: one of FORMATS; None: as the weights are.
    """

    blocks: tuple[Weights, ...]
    eps: float
    final_norm: Tensor | None
    head: Tensor | None
    format: str | None

    @property
    def device_type(self) -> str:
        return self.blocks[0].in_weight.device.type

    @property
    def dtype_name(self) -> str:
        """Of the projections, as formats are called."""
        return str(self.blocks[0].in_weight.dtype).removeprefix("torch.")

    @property
    def d_model(self) -> int:
        return self.blocks[0].in_weight.shape[2]

    @property
    def n(self) -> int:
        return self.blocks[0].A_log.shape[1]

    @property
    def modalities(self) -> int:
        """Experts of the projections that are split; 1 where none is."""
        return max(p.shape[0] for p in self.projections)

    @property
    def projections(self) -> list[Tensor]:
        """Weights and biases."""
        found: list[Tensor | None] = []
        for w in self.blocks:
            found += [w.in_weight, w.in_bias, w.x_weight, w.dt_weight, w.dt_bias]
            found += [w.out_weight, w.out_bias]
        return [p for p in found if p is not None]
