"""The softmax of rows of logits, its losses and its gradient, by the C++ kernel of csrc."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from ..native_buffers import integers, pointers, put, put_copies
from .inputs import HeadInputs
from .slices import Product

__all__ = ["cached_rows", "softmax", "why_not"]

DTYPES = (torch.float32, torch.bfloat16)
#: Logits that a product leaves in a core's own cache for the kernel.
CACHED = 1 << 19


class CrossEntropyCall(ctypes.Structure):
    """Mirror of the record in csrc/cross_entropy.cpp."""

    _fields_ = [
        *integers("rows words first ignore bf16 threads gradient"),
        *pointers("logits targets low high share losses totals"),
    ]


def why_not(device_type: str, dtype: torch.dtype) -> str | None:
    """None where the kernel serves such rows, else the reason."""
    if device_type != "cpu":
        return f"the tensors are on {device_type}"
    if dtype not in DTYPES:
        return f"it serves float32 and bfloat16, not {dtype}"
    return native.why_not()


def cached_rows(inputs: HeadInputs) -> int:
    """Rows of a product whose logits the kernel finds in the cache."""
    return max(64, CACHED // max(inputs.weight.shape[0], 1))


def softmax(
    inputs: HeadInputs,
    part: Product,
    *,
    gradient: bool = False,
    share: Tensor | None = None,
    losses: Tensor | None = None,
    totals: Tensor | None = None,
) -> None:
    """One pass over a product.

    Args:
        inputs: the call, for targets and ranges.
        part: its logits; contiguous.
        gradient: overwrite them by the gradient in them of sum(share * losses), which is
            share * (softmax - target); zero where a row is ignored, and outside its range.
        share: (rows,) float32; by default ones.
        losses, totals: (rows,) float32 that become the losses, and the logarithms of the softmax's
            denominators (-inf where a row is ignored).
    """
    rows, words, logits = part
    count, integer = logits.shape[0], torch.int64
    call = CrossEntropyCall(
        rows=count,
        words=logits.shape[1],
        first=words.start,
        ignore=inputs.ignore_index,
        bf16=logits.dtype == torch.bfloat16,
        threads=native.threads(logits.numel()),
        gradient=gradient,
    )
    put(call, "logits", logits, inputs.hidden.dtype, count, words.stop - words.start)
    for name, x in (("share", share), ("losses", losses), ("totals", totals)):
        put(call, name, x, torch.float32, count)
    vectors = (("targets", inputs.targets), ("low", inputs.low), ("high", inputs.high))
    keep = put_copies(
        call,
        ((name, None if x is None else x[rows], integer, (count,)) for name, x in vectors),
    )
    if native.library().mom_cross_entropy(ctypes.byref(call)):
        raise ValueError("targets, low or high have changed since the forward, to invalid ones")
    del keep
