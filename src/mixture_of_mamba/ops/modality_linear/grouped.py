"""Backend "grouped": all experts in one F.grouped_mm, which reads the row counts on the device.

Where the counts are known on the host and every group fills the device on its own, one library
product per group is faster, and `forward` and `backward` take that way instead. They also take it
where F.grouped_mm would copy the counts to the host itself, which waits for the device: it has one
kernel for all groups in bfloat16 on Hopper and Blackwell only. Without counts on the host, other
dtypes and devices wait at every product, and the first one says so.
"""

from __future__ import annotations

import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..triton_support import capability, capturing, multiprocessors
from . import loop
from .inputs import LinearGrads, LinearInputs

__all__ = ["backward", "forward", "prefers_loop", "waits", "why_not"]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
#: Elements of y that one multiprocessor computes at a time in a library product.
_TILE = 128 * 256


def why_not(inputs: LinearInputs) -> str | None:
    if inputs.x.dtype not in _DTYPES:
        return f"F.grouped_mm has no {inputs.x.dtype}; it serves bfloat16, float16 and float32"
    if inputs.device_type not in ("cpu", "cuda"):
        return f"F.grouped_mm serves CPU and CUDA tensors, not {inputs.device_type}"
    return None


def waits(inputs: LinearInputs) -> bool:
    """Whether F.grouped_mm copies the counts to the host, and loops over the groups there."""
    if inputs.device_type != "cuda":
        return False
    return inputs.x.dtype != torch.bfloat16 or capability(inputs.x.device)[0] not in (9, 10)


def prefers_loop(inputs: LinearInputs) -> bool:
    """Whether the host knows the groups, and each one's product fills the device by itself, or
    F.grouped_mm would loop too. A captured graph has to hold for other counts as well."""
    if inputs.device_type != "cuda" or inputs.host_offsets is None or capturing():
        return False
    if waits(inputs):
        return True
    ends = inputs.host_offsets.tolist()
    counts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    least = min((c for c in counts if c), default=0)
    return least * inputs.weight.shape[1] >= _TILE * multiprocessors(inputs.x.device)


def forward(inputs: LinearInputs) -> Tensor:
    if prefers_loop(inputs):
        return loop.forward(inputs)
    x, weight, offsets = inputs.x, inputs.weight, inputs.offsets
    if not x.shape[0]:
        return x.new_empty(0, weight.shape[1])
    if waits(inputs):
        _explain_waits(x.dtype)
    y = _rows_by_experts(x, weight.transpose(1, 2), offsets)
    if inputs.bias is not None:
        y = y.add_(inputs.bias[inputs.experts()])
    return y


def backward(inputs: LinearInputs, dy: Tensor, needs: tuple[bool, bool, bool]) -> LinearGrads:
    """Gradients of x, weight, bias; an expert without rows gets zeros."""
    if prefers_loop(inputs):
        return loop.backward(inputs, dy, needs)
    x, weight, offsets = inputs.x, inputs.weight, inputs.offsets
    dx = dw = db = None
    if not x.shape[0]:
        zeros = (torch.zeros_like(x), torch.zeros_like(weight), weight.new_zeros(weight.shape[:2]))
        return LinearGrads(*(g if need else None for g, need in zip(zeros, needs, strict=True)))
    if needs[0]:
        dx = _rows_by_experts(dy, weight, offsets)
    if needs[1]:
        dw = _rows_by_rows(dy, x, offsets)
        dw.masked_fill_(_empty(offsets)[:, None, None], 0)
    if needs[2]:
        # A product with a one-hot matrix: no atomics, so the same bits every time.
        experts = torch.arange(weight.shape[0], device=dy.device)
        db = (inputs.experts() == experts[:, None]).to(dy.dtype) @ dy
    return LinearGrads(dx, dw, db)


@cache
def _explain_waits(dtype: torch.dtype) -> None:
    """Once for each dtype."""
    warnings.warn(
        f"mixture projections in {dtype} wait for this device at every product; bfloat16 on "
        "compute capability 9 or 10 does not, nor do counts known on the host",
        stacklevel=3,
    )


def _empty(offsets: Tensor) -> Tensor:
    """(m,) bool, experts without rows; F.grouped_mm promises nothing about their gradients."""
    return offsets == F.pad(offsets[:-1], (1, 0))


def _rows_by_experts(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """(r, k) x (m, k, n) -> (r, n)."""
    k, n = weight.shape[1:]
    step = 16 // x.element_size()
    if pad := (-k % step) or (-n % step):
        x = F.pad(x, (0, -k % step))
        # Which of k and n is contiguous does not matter to the product, only that strides align.
        weight = F.pad(weight, (0, -n % step, 0, -k % step))
    elif weight.storage_offset() % step:  # a view into flat parameters
        weight = weight.clone()
    y = F.grouped_mm(_aligned(x), weight, offs=offsets)
    return y[:, :n].contiguous() if pad else y


def _rows_by_rows(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """(r, n), (r, k) -> (m, n, k): the sum of outer products over each expert's rows."""
    n, k = a.shape[1], b.shape[1]
    step = 16 // a.element_size()
    if pad := (-k % step) or (-n % step):
        a, b = F.pad(a, (0, -n % step)), F.pad(b, (0, -k % step))
    y = F.grouped_mm(_aligned(a).t(), _aligned(b), offs=offsets)
    return y[:, :n, :k].contiguous() if pad else y


def _aligned(rows: Tensor) -> Tensor:
    """Rows that start at multiples of 16 bytes, as F.grouped_mm asks; a copy where they do not."""
    step = 16 // rows.element_size()
    if rows.stride(1) == 1 and not (rows.stride(0) % step or rows.storage_offset() % step):
        return rows
    return rows.clone(memory_format=torch.contiguous_format)
