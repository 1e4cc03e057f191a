"""Backend "cpu": the C++ kernels of csrc/conv.cpp, called without the interpreter's lock."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from ..native_buffers import integers, pointers, put, put_copies, put_index, put_rows
from ..routing import contiguous_rows
from .inputs import ConvGrads, ConvInputs

__all__ = ["backward", "forward", "why_not"]

MOST_TAPS = 4
DTYPES = (torch.float32, torch.bfloat16)


class ConvCall(ctypes.Structure):
    """Mirror of the record in csrc/conv.cpp."""

    _fields_ = [
        *integers("batch length d k silu bf16 threads x_stride y_stride dy_stride dx_stride"),
        *pointers("x weight bias rows resets state y final_state"),
        *pointers("dy dfinal dx dstate dweight dbias partials"),
    ]


def why_not(inputs: ConvInputs) -> str | None:
    if inputs.device_type != "cpu":
        return f"the tensors are on {inputs.device_type}"
    if inputs.x.dtype not in DTYPES:
        return f"it serves float32 and bfloat16, not {inputs.x.dtype}"
    if inputs.k > MOST_TAPS or inputs.d < 1:
        return f"it serves 1..{MOST_TAPS} taps and at least one channel, not {inputs.k} taps"
    return native.why_not()


def forward(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    call, keep = _call(inputs)
    y = torch.empty(inputs.x.shape, dtype=inputs.x.dtype)
    dtype, states = inputs.x.dtype, (inputs.row_index.batch, inputs.k - 1, inputs.d)
    final = torch.empty(states, dtype=dtype)
    put_rows(call, "y", "y_stride", y, dtype, inputs.row_index.size, inputs.d)
    put(call, "final_state", final, dtype, *states)
    inputs.row_index.check(native.library().mom_conv_forward(ctypes.byref(call)))
    del keep
    return y, final


def backward(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None) -> ConvGrads:
    dx = torch.empty(inputs.x.shape, dtype=inputs.x.dtype)
    return backward_into(inputs, dy, dfinal, dx)


def backward_into(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None, dx: Tensor) -> ConvGrads:
    """The gradients, that of x written into `dx`, which may be strided rows."""
    call, keep = _call(inputs)
    library = native.library()
    lanes = library.mom_vector_lanes()
    dtype, rows, d, k = inputs.x.dtype, inputs.row_index.size, inputs.d, inputs.k
    states = (inputs.row_index.batch, k - 1, d)
    dweight = torch.empty(d, k, dtype=torch.float32)
    dbias = torch.empty(d, dtype=torch.float32)
    dstate = None if inputs.state is None else torch.empty(states, dtype=dtype)
    partials = (inputs.row_index.batch, k + 1, -(-d // lanes) * lanes)
    sums = torch.empty(partials, dtype=torch.float64)
    dy = contiguous_rows(dy)
    put_rows(call, "dy", "dy_stride", dy, dtype, rows, d)
    put_rows(call, "dx", "dx_stride", dx, dtype, rows, d)
    if dfinal is not None:
        dfinal = dfinal.to(dtype).contiguous()
    put(call, "dfinal", dfinal, dtype, *states)
    put(call, "dstate", dstate, dtype, *states)
    put(call, "dweight", dweight, torch.float32, d, k)
    put(call, "dbias", dbias, torch.float32, d)
    put(call, "partials", sums, torch.float64, *partials)
    inputs.row_index.check(library.mom_conv_backward(ctypes.byref(call)))
    del keep
    bias = inputs.bias
    return ConvGrads(
        dx, dweight.to(inputs.weight.dtype), None if bias is None else dbias.to(bias.dtype), dstate
    )


def _call(inputs: ConvInputs) -> tuple[ConvCall, list[Tensor]]:
    """The record with all inputs, and the tensors that must outlive the call."""
    call = ConvCall(
        d=inputs.d,
        k=inputs.k,
        silu=inputs.silu,
        bf16=inputs.x.dtype == torch.bfloat16,
        threads=native.threads(inputs.x.numel()),
    )
    dtype, wide, d, k = inputs.x.dtype, torch.float32, inputs.d, inputs.k
    x = contiguous_rows(inputs.x)
    put_rows(call, "x", "x_stride", x, dtype, inputs.row_index.size, d)
    bias = None if inputs.bias is None else inputs.bias.float()
    others = put_copies(
        call,
        (
            ("weight", inputs.weight.float(), wide, (d, k)),
            ("bias", bias, wide, (d,)),
            ("state", inputs.state, dtype, (inputs.row_index.batch, k - 1, d)),
        ),
    )
    return call, [x, *others, *put_index(call, inputs.row_index)]
