"""RMS norm by the C++ kernel of csrc/norm.cpp."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from ..native_buffers import integers, pointers, put

__all__ = ["norm_backward", "norm_forward"]

#: Slices of rows; csrc/norm.cpp.
TASKS = 16


class NormCall(ctypes.Structure):
    """Mirror of the record in csrc/norm.cpp."""

    _fields_ = [
        *integers("rows d bf16 threads"),
        ("eps", ctypes.c_double),
        *pointers("x weight y scale skip dx dweight partials"),
    ]


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(r, d) contiguous rows -> x / rms(x) * weight in x's dtype, and (r,) float32 1 / rms(x)."""
    (rows, d), wide = x.shape, torch.float32
    y, scale = torch.empty_like(x), torch.empty(rows, dtype=wide)
    weight = weight.float().contiguous()
    call = _call(x, eps)
    put(call, "weight", weight, wide, d)
    put(call, "y", y, x.dtype, rows, d)
    put(call, "scale", scale, wide, rows)
    native.library().mom_norm_forward(ctypes.byref(call))
    return y, scale


def norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, scale: Tensor, skip: Tensor
) -> tuple[Tensor, Tensor]:
    """-> gradient of x plus `skip` (what reaches x past the norm), gradient of the weight."""
    library = native.library()
    lanes = library.mom_vector_lanes()
    (rows, d), wide = x.shape, torch.float32
    dx, dweight = torch.empty_like(x), torch.empty(d, dtype=wide)
    sums = (TASKS, -(-d // lanes) * lanes)
    partials = torch.empty(sums, dtype=torch.float64)
    weights = weight.float().contiguous()
    call = _call(x, 0.0)
    put(call, "weight", weights, wide, d)
    put(call, "scale", scale, wide, rows)
    for name, tensor in (("y", dy), ("skip", skip), ("dx", dx)):
        put(call, name, tensor, x.dtype, rows, d)
    put(call, "dweight", dweight, wide, d)
    put(call, "partials", partials, torch.float64, *sums)
    library.mom_norm_backward(ctypes.byref(call))
    return dx, dweight.to(weight.dtype)


def _call(x: Tensor, eps: float) -> NormCall:
    call = NormCall(
        rows=x.shape[0],
        d=x.shape[1],
        bf16=x.dtype == torch.bfloat16,
        threads=native.threads(x.numel()),
        eps=eps,
    )
    put(call, "x", x, x.dtype, *x.shape)
    return call
