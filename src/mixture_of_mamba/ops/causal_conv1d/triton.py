"""Triton backend "triton": buffers and launches. The kernels are imported at first launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..routing import contiguous_rows
from ..triton_support import (
    MAX_GRID,
    LaunchConfig,
    as_bytes,
    contiguous,
    on_device,
    why_not_triton,
    without_steps,
)
from .inputs import ConvGrads, ConvInputs

__all__ = ["BACKWARD", "CHUNK", "FORWARD", "backward", "forward", "why_not"]

FORWARD = LaunchConfig(block=256, warps=2, steps=8)
BACKWARD = LaunchConfig(block=128, warps=2, steps=8)
#: Steps a program; it reads k - 1 more.
CHUNK = 64
#: Taps that a lane keeps in registers.
MAX_TAPS = 8


def why_not(inputs: ConvInputs) -> str | None:
    """A reason that names the limit, or None."""
    if reason := why_not_triton("x", inputs.x, inputs.row_index):
        return reason
    if inputs.k > MAX_TAPS:
        return f"weight has {inputs.k} taps; it keeps at most {MAX_TAPS} in registers"
    if (length := inputs.row_index.length) > MAX_GRID * CHUNK:
        return f"a sequence has {length} steps; it serves at most {MAX_GRID * CHUNK}"
    return None


def forward(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    from .triton_kernels import conv_forward_kernel

    x, state = contiguous_rows(inputs.x), inputs.state
    (b, t), d, k = inputs.row_index.shape, inputs.d, inputs.k
    y = x.new_empty(x.shape)
    final = x.new_empty((b, k - 1, d))
    if not b * t * d:
        return y, final.zero_() if state is None else final.copy_(state)
    grid, options = _launch(inputs, FORWARD)
    with on_device(x):
        conv_forward_kernel[grid](*_reads(inputs, x), y, final, t, d, x.stride(0), **options)
    return y, final


def backward(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None) -> ConvGrads:
    from .triton_kernels import conv_backward_kernel

    (b, t), d, k = inputs.row_index.shape, inputs.d, inputs.k
    if not b * t * d:
        return without_steps(inputs, ConvGrads, dfinal)
    x, dy = contiguous_rows(inputs.x), contiguous_rows(dy)
    grid, options = _launch(inputs, BACKWARD)
    parts = (b, grid[2])
    dx, dstate = x.new_empty(x.shape), x.new_empty((b, k - 1, d))
    dweight = x.new_empty((*parts, k, d), dtype=torch.float32)
    dbias = x.new_empty((*parts, d), dtype=torch.float32)
    with on_device(x):
        conv_backward_kernel[grid](
            *(dy, contiguous(dfinal), *_reads(inputs, x), dx, dstate, dweight, dbias),
            *(t, d, dy.stride(0), x.stride(0)),
            HAS_DFINAL=dfinal is not None,
            **options,
        )
    bias = inputs.bias
    return ConvGrads(
        x=dx,
        weight=dweight.sum((0, 1)).t().contiguous().to(inputs.weight.dtype),
        bias=None if bias is None else dbias.sum((0, 1)).to(bias.dtype),
        state=None if inputs.state is None else dstate,
    )


def _reads(inputs: ConvInputs, x: Tensor) -> tuple[Tensor | None, ...]:
    """What both kernels read, in their order."""
    index = inputs.row_index
    return (
        x,
        inputs.weight.contiguous(),
        contiguous(inputs.bias),
        contiguous(index.rows),
        as_bytes(index.resets),
        contiguous(inputs.state),
    )


def _launch(inputs: ConvInputs, config: LaunchConfig) -> tuple[Any, dict[str, Any]]:
    """The grid, and the constants of a kernel."""
    index = inputs.row_index
    return (-(-inputs.d // config.block), index.batch, -(-index.length // CHUNK)), {
        "K": inputs.k,
        "BLOCK": config.block,
        "T": config.steps,
        "CHUNK": CHUNK,
        "HAS_BIAS": inputs.bias is not None,
        "HAS_ROWS": index.rows is not None,
        "HAS_RESETS": index.resets is not None,
        "HAS_STATE": inputs.state is not None,
        "SILU": inputs.silu,
        "num_warps": config.warps,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
