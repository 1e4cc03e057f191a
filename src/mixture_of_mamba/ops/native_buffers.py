"""What native code may be handed: every pointer goes through here, and its buffer has the dtype,
shape and layout that the kernel reads or writes, whatever led to it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import torch
from torch import Tensor

from .routing import RowIndex

__all__ = ["integers", "pointers", "put", "put_copies", "put_index", "put_rows"]


def integers(names: str) -> list[tuple[str, type]]:
    """Fields of a record that are 64-bit integers."""
    return [(name, ctypes.c_int64) for name in names.split()]


def pointers(names: str) -> list[tuple[str, type]]:
    """Fields of a record that are addresses."""
    return [(name, ctypes.c_void_p) for name in names.split()]


def put(
    record: ctypes.Structure, field: str, x: Tensor | None, dtype: torch.dtype, *shape: int
) -> None:
    """Enter a contiguous tensor's address into a record; nothing (null) where there is none.

    Raises:
        ValueError: another dtype or shape than the kernel's, not contiguous, or not on the CPU.
    """
    if x is not None:
        _check(field, x, dtype, shape, x.is_contiguous(), "contiguous")
        setattr(record, field, x.data_ptr())


def put_rows(
    record: ctypes.Structure, field: str, stride: str, x: Tensor, dtype: torch.dtype, *shape: int
) -> None:
    """Enter (rows, channels) and the distance of rows; channels are contiguous, rows may be slices
    of wider ones (see routing.contiguous_rows).

    Raises:
        ValueError: see `put`.
    """
    _check(field, x, dtype, shape, x.shape[-1] == 1 or x.stride(-1) == 1, "channel-contiguous")
    setattr(record, field, x.data_ptr())
    setattr(record, stride, x.stride(0))


def put_copies(
    record: ctypes.Structure,
    tensors: Iterable[tuple[str, Tensor | None, torch.dtype, tuple[int, ...]]],
) -> list[Tensor]:
    """Enter (field, tensor, dtype, shape), contiguous copies where they are not; -> the tensors,
    which must outlive the call."""
    keep = []
    for field, x, dtype, shape in tensors:
        if x is not None:
            keep.append(x.contiguous())
            put(record, field, keep[-1], dtype, *shape)
    return keep


def put_index(
    record: ctypes.Structure, index: RowIndex, modality: Tensor | None = None
) -> list[Tensor]:
    """Enter a row index, and the modality of each position; -> what must outlive the call."""
    record.batch, record.length = index.shape  # type: ignore[attr-defined]
    return put_copies(
        record,
        (
            ("rows", index.rows, torch.int32, index.shape),
            ("modality", modality, torch.int32, index.shape),
            ("resets", index.resets, torch.bool, index.shape),
        ),
    )


def _check(
    field: str, x: Tensor, dtype: torch.dtype, shape: tuple[int, ...], fits: bool, layout: str
) -> None:
    if x.dtype == dtype and x.shape == shape and fits and x.device.type == "cpu":
        return
    raise ValueError(
        f"{field} is {tuple(x.shape)} {x.dtype} with strides {x.stride()} on {x.device}; {layout} "
        f"{shape} {dtype} on cpu is needed by the native kernel"
    )
