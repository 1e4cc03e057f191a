"""The records of a whole block: parameters, call, what its backward reads, gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..routing import RowIndex

__all__ = ["BlockGrads", "BlockInputs", "Saved", "Weights"]


class Weights(NamedTuple):
    """Parameters of a block: projections (m or 1, out, in), conv (d, k), A_log (d, n)."""

    norm: Tensor
    in_weight: Tensor
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_weight: Tensor
    out_bias: Tensor | None


class BlockInputs(NamedTuple):
    """One call.

    Attributes:
        x: (r, d_model) rows.
        weights: of the block.
        conv_state: (b, k-1, d) in x's dtype, or None for zeros.
        ssm_state: (b, d, n) float32, or None for zeros.
        row_index: row, modality and resets of each position.
        offsets: (m,) int32, end of each modality's rows, on the host.
        eps: of the norm.
    """

    x: Tensor
    weights: Weights
    conv_state: Tensor | None
    ssm_state: Tensor | None
    row_index: RowIndex
    offsets: Tensor
    eps: float


class BlockGrads(NamedTuple):
    """Gradients in the shapes and dtypes of the inputs; None for absent inputs."""

    x: Tensor
    weights: Weights
    conv_state: Tensor | None
    ssm_state: Tensor | None


class Saved(NamedTuple):
    """What the backward reads.

    Attributes:
        h, scale: normed rows, and 1 / rms of each row.
        xz: [x | z] of in_proj.
        u: of the convolution.
        dt_B_C: [dt | B | C] of x_proj.
        delta: of dt_proj, without its bias.
        y, checkpoints: of the scan.
    """

    h: Tensor
    scale: Tensor
    xz: Tensor
    u: Tensor
    dt_B_C: Tensor
    delta: Tensor
    y: Tensor
    checkpoints: Tensor
