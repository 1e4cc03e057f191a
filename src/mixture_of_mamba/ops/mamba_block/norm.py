"""RMS norm by the C++ kernel of csrc/norm.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native

__all__ = ["norm_backward", "norm_forward"]

TASKS = 16  # slices of rows; csrc/norm.cpp


class NormCall(ctypes.Structure):
    """Mirror of the record in csrc/norm.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "d", "bf16", "threads")),
        ("eps", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in ("x", "weight", "y", "scale", "skip", "dx", "dweight", "partials")
        ),
    ]


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(r, d) contiguous rows -> x / rms(x) * weight in x's dtype, and (r,) float32 1 / rms(x)."""
    y, scale = torch.empty_like(x), torch.empty(x.shape[0])
    weight = weight.float().contiguous()
    call = _call(x, eps)
    call.weight, call.y, call.scale = weight.data_ptr(), y.data_ptr(), scale.data_ptr()
    native.library().mom_norm_forward(ctypes.byref(call))
    return y, scale


def norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor, skip: Tensor
) -> tuple[Tensor, Tensor]:
    """-> gradient of x plus `skip` (what reaches x past the norm), gradient of the weight."""
    library = native.library()
    lanes = library.mom_vector_lanes()
    dx, dweight = torch.empty_like(x), torch.empty(x.shape[1])
    partials = torch.empty(TASKS, -(-x.shape[1] // lanes) * lanes, dtype=torch.float64)
    wide = weight.float().contiguous()
    call = _call(x, 0.0)
    for name, tensor in {
        "weight": wide,
        "y": dy,
        "scale": scale,
        "skip": skip,
        "dx": dx,
        "dweight": dweight,
        "partials": partials,
    }.items():
        setattr(call, name, tensor.data_ptr())
    library.mom_norm_backward(ctypes.byref(call))
    return dx, dweight.to(weight.dtype)


def _call(x: Tensor, eps: float) -> NormCall:
    return NormCall(
        rows=x.shape[0],
        d=x.shape[1],
        bf16=x.dtype == torch.bfloat16,
        threads=native.threads(x.numel()),
        eps=eps,
        x=x.data_ptr(),
    )
