"""Triton backend "triton": buffers and launches. The kernels are imported at first launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..triton_support import MAX_GRID, contiguous, device_why_not, on_device
from .inputs import ConvGrads, ConvInputs

__all__ = ["BACKWARD", "CHUNK", "FORWARD", "Tiles", "backward", "forward", "why_not"]


class Tiles(NamedTuple):
    """Launch shape: channels a program, warps a program, steps a tile."""

    block: int
    warps: int
    steps: int


FORWARD = Tiles(block=256, warps=2, steps=8)
BACKWARD = Tiles(block=128, warps=2, steps=8)
CHUNK = 64  # steps a program; it reads k - 1 more
MAX_TAPS = 8
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(inputs: ConvInputs) -> str | None:
    """A reason that names the limit, or None."""
    if reason := device_why_not(inputs.x):
        return reason
    if inputs.x.dtype not in _DTYPES:
        return f"x is {inputs.x.dtype}; it serves float32, bfloat16 and float16"
    if inputs.k > MAX_TAPS:
        return f"weight has {inputs.k} taps; it keeps at most {MAX_TAPS} in registers"
    if inputs.batch > MAX_GRID:
        return f"the batch has {inputs.batch} sequences; it serves at most {MAX_GRID}"
    if inputs.length > MAX_GRID * CHUNK:
        return f"a sequence has {inputs.length} steps; it serves at most {MAX_GRID * CHUNK}"
    return None


def forward(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    from .triton_kernels import conv_forward_kernel

    x = inputs
    y = x.x.new_empty(x.x.shape)
    final = x.x.new_empty((x.batch, x.k - 1, x.d))
    if not x.batch * x.length * x.d:
        return y, final.zero_() if x.state is None else final.copy_(x.state)
    rows = _rows(x.x)
    with on_device(rows):
        conv_forward_kernel[_grid(x, FORWARD)](
            rows,
            x.weight.contiguous(),
            contiguous(x.bias),
            contiguous(x.rows),
            None if x.resets is None else x.resets.contiguous().view(torch.uint8),
            contiguous(x.state),
            y,
            final,
            x.length,
            x.d,
            rows.stride(0),
            **_flags(x, FORWARD),
        )
    return y, final


def backward(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None) -> ConvGrads:
    from .triton_kernels import conv_backward_kernel

    x = inputs
    if not x.batch * x.length * x.d:
        return _no_steps(x, dfinal)
    rows, dy = _rows(x.x), _rows(dy)
    grid = _grid(x, BACKWARD)
    parts = (x.batch, grid[2])
    dx = rows.new_empty(x.x.shape)
    dstate = rows.new_empty((x.batch, x.k - 1, x.d))
    dweight = torch.empty((*parts, x.k, x.d), dtype=torch.float32, device=rows.device)
    dbias = torch.empty((*parts, x.d), dtype=torch.float32, device=rows.device)
    with on_device(rows):
        conv_backward_kernel[grid](
            dy,
            contiguous(dfinal),
            rows,
            x.weight.contiguous(),
            contiguous(x.bias),
            contiguous(x.rows),
            None if x.resets is None else x.resets.contiguous().view(torch.uint8),
            contiguous(x.state),
            dx,
            dstate,
            dweight,
            dbias,
            x.length,
            x.d,
            dy.stride(0),
            rows.stride(0),
            HAS_DFINAL=dfinal is not None,
            **_flags(x, BACKWARD),
        )
    return ConvGrads(
        dx,
        dweight.sum((0, 1)).t().contiguous().to(x.weight.dtype),
        None if x.bias is None else dbias.sum((0, 1)).to(x.bias.dtype),
        None if x.state is None else dstate,
    )


def _grid(inputs: ConvInputs, tiles: Tiles) -> tuple[int, int, int]:
    return -(-inputs.d // tiles.block), inputs.batch, -(-inputs.length // CHUNK)


def _flags(inputs: ConvInputs, tiles: Tiles) -> dict[str, int | bool]:
    return {
        "K": inputs.k,
        "BLOCK": tiles.block,
        "T": tiles.steps,
        "CHUNK": CHUNK,
        "HAS_BIAS": inputs.bias is not None,
        "HAS_ROWS": inputs.rows is not None,
        "HAS_RESETS": inputs.resets is not None,
        "HAS_STATE": inputs.state is not None,
        "SILU": inputs.silu,
        "num_warps": tiles.warps,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }


def _rows(x: Tensor) -> Tensor:
    """Rows with contiguous channels; a copy where they are not (an expanded gradient, say)."""
    return x if x.stride(1) == 1 else x.contiguous()


def _no_steps(inputs: ConvInputs, dfinal: Tensor | None) -> ConvGrads:
    """Gradients of a call without time or batch: all zero, and the final state is the first."""
    found = {name: getattr(inputs, name) for name in ConvGrads._fields}
    found = {name: None if x is None else torch.zeros_like(x) for name, x in found.items()}
    if inputs.state is not None and dfinal is not None:
        found["state"] = dfinal.clone()
    return ConvGrads(**found)  # type: ignore[arg-type]
