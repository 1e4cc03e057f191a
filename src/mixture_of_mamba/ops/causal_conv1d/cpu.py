"""Backend "cpu": the C++ kernels of csrc/conv.cpp, called without the interpreter's lock."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from ..selective_scan.cpu import put_rows
from .inputs import ConvGrads, ConvInputs

__all__ = ["backward", "forward", "why_not"]

MOST_TAPS = 4
DTYPES = (torch.float32, torch.bfloat16)


class ConvCall(ctypes.Structure):
    """Mirror of the record in csrc/conv.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "length", "d", "k", "silu", "bf16", "threads"),
                *("x_stride", "y_stride", "dy_stride", "dx_stride"),
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("x", "weight", "bias", "rows", "resets", "state", "y", "final_state"),
                *("dy", "dfinal", "dx", "dstate", "dweight", "dbias", "partials"),
            )
        ),
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
    final = torch.empty(inputs.batch, inputs.k - 1, inputs.d, dtype=inputs.x.dtype)
    put_rows(call, "y", "y_stride", y)
    call.final_state = final.data_ptr()
    _check(native.library().mom_conv_forward(ctypes.byref(call)), inputs)
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
    dweight, dbias = torch.empty(inputs.d, inputs.k), torch.empty(inputs.d)
    dstate = None if inputs.state is None else torch.empty_like(inputs.state).contiguous()
    sums = torch.empty(
        (inputs.batch, inputs.k + 1, -(-inputs.d // lanes) * lanes), dtype=torch.float64
    )
    keep.append(put_rows(call, "dy", "dy_stride", dy))
    put_rows(call, "dx", "dx_stride", dx)
    if dfinal is not None:
        keep.append(dfinal.to(inputs.x.dtype).contiguous())
        call.dfinal = keep[-1].data_ptr()
    call.dstate = None if dstate is None else dstate.data_ptr()
    call.dweight, call.dbias = dweight.data_ptr(), dbias.data_ptr()
    call.partials = sums.data_ptr()
    _check(library.mom_conv_backward(ctypes.byref(call)), inputs)
    del keep
    bias = inputs.bias
    return ConvGrads(
        dx, dweight.to(inputs.weight.dtype), None if bias is None else dbias.to(bias.dtype), dstate
    )


def _call(inputs: ConvInputs) -> tuple[ConvCall, list[Tensor]]:
    """The record with all inputs, and the tensors that must outlive the call."""
    call = ConvCall(
        batch=inputs.batch,
        length=inputs.length,
        d=inputs.d,
        k=inputs.k,
        silu=inputs.silu,
        bf16=inputs.x.dtype == torch.bfloat16,
        threads=native.threads(inputs.x.numel()),
    )
    keep = [put_rows(call, "x", "x_stride", inputs.x)]
    plain = {
        "weight": inputs.weight.float(),
        "bias": None if inputs.bias is None else inputs.bias.float(),
        "rows": inputs.rows,
        "resets": inputs.resets,
        "state": inputs.state,
    }
    for name, tensor in plain.items():
        if tensor is not None:
            keep.append(tensor.contiguous())
            setattr(call, name, keep[-1].data_ptr())
    return call, keep


def _check(code: int, inputs: ConvInputs) -> None:
    """Turn a kernel's code into an error."""
    if code == 1:
        total = inputs.batch * inputs.length
        raise ValueError(f"the row index names a row outside 0..{total - 1}; use Routing.build")
