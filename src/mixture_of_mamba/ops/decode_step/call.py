"""The records of csrc/decode.cpp, and weights in the formats that it reads."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..native_buffers import integers, pointers, put

__all__ = ["DecodeCall", "DecodeLayer", "Matrix", "Packed", "pack", "pack_in_arena"]


class Matrix(ctypes.Structure):
    _fields_ = [*integers("experts out in_"), *pointers("weight scale bias")]


class DecodeLayer(ctypes.Structure):
    _fields_ = [
        *pointers("norm"),
        *((name, Matrix) for name in ("in_proj", "x_proj", "dt_proj", "out_proj")),
        *pointers("taps conv_bias A2 D conv ssm"),
    ]


class DecodeCall(ctypes.Structure):
    _fields_ = [
        *integers("layers batch d_model d n k modalities format threads"),
        ("eps", ctypes.c_double),
        ("layer", ctypes.POINTER(DecodeLayer)),
        *pointers("x modality final_norm"),
        ("head", Matrix),
        *pointers("hidden logits scratch"),
    ]


class Packed(NamedTuple):
    """A weight (m, out, in) in one of FORMATS, its float32 scale (m, out) for int8, and bias."""

    weight: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def matrix(self) -> Matrix:
        """The record; it borrows the tensors."""
        experts, out, width = self.weight.shape
        record = Matrix(experts=experts, out=out, in_=width)
        put(record, "weight", self.weight, self.weight.dtype, experts, out, width)
        put(record, "scale", self.scale, torch.float32, experts, out)
        put(record, "bias", self.bias, torch.float32, experts, out)
        return record

    @property
    def nbytes(self) -> int:
        """Bytes that a step reads."""
        return sum(v.nbytes for v in self if v is not None)


def pack(weight: Tensor, bias: Tensor | None, form: str) -> Packed:
    """(m, out, in) -> the format; int8 is symmetric with one scale for each row."""
    weight = weight.detach().float()
    scale = None
    if form == "int8":
        scale = (weight.abs().amax(-1) / 127).clamp(min=1e-30)
        packed = (weight / scale[..., None]).round().to(torch.int8)
        scale = scale.contiguous()
    else:
        packed = weight.to(getattr(torch, form))
    return Packed(
        packed.contiguous(), scale, None if bias is None else bias.detach().float().contiguous()
    )


def pack_in_arena(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies side by side in one mapping, on huge pages where the system grants them: a step reads
    all of it once, and with small pages it would wait for address translation."""
    starts, size = [], 0
    for x in tensors:
        starts.append(size)
        size += -(-x.nbytes // 64) * 64
    arena = mmap.mmap(-1, max(size, 1))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            arena.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(arena, dtype=torch.uint8)
    copies = []
    for x, start in zip(tensors, starts, strict=True):
        place = whole[start : start + x.nbytes].view(x.dtype).view(x.shape)
        copies.append(place.copy_(x))
    return copies
