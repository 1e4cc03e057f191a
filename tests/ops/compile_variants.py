"""Compile the kernels for calls that lack this or that, without a GPU; run by test_compile_gate.py.

    python -m tests.ops.compile_variants ARCH

Prints one line per variant, and fails at the first that does not compile. An argument of 1 is a
constant to the compiler, and an absent tensor removes code: each variant is another program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from benchmarks.gpu.resources import compiling_only
from torch import Tensor

from mixture_of_mamba.ops.causal_conv1d import ConvInputs
from mixture_of_mamba.ops.causal_conv1d import triton as conv_backend
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import ScanInputs
from mixture_of_mamba.ops.selective_scan import triton as scan_backend

INT, BOOL = torch.int32, torch.bool


def given(wanted: object, *shape: int, kind: torch.dtype = torch.float32) -> Tensor | None:
    return torch.empty(shape, dtype=kind) if wanted else None


def index(b: int, t: int, full: bool) -> RowIndex:
    """With rows, modalities and documents, or positions alone."""
    kinds = (INT, INT, BOOL)
    return RowIndex(*(given(full, b, t, kind=kind) for kind in kinds), b, t)  # type: ignore[arg-type]


def scan(
    dtype: torch.dtype, b: int, t: int, d: int, n: int, *, full: bool, biases: int = 0
) -> None:
    """Forward and backward with everything optional, or with nothing."""
    rows, maps = torch.empty(b * t, d, dtype=dtype), torch.empty(b * t, n, dtype=dtype)
    inputs = ScanInputs(
        rows, rows, torch.empty(d, n), maps, maps,
        given(full, d), rows if full else None, given(biases, biases, d),
        given(full, b, d, n), index(b, t, full), full,
    )  # fmt: skip
    scan_backend.forward(inputs, full)
    saved = torch.empty(scan_backend.checkpoint_shape(inputs))
    scan_backend.backward(inputs, saved, rows, given(full, b, d, n))


def conv(dtype: torch.dtype, b: int, t: int, d: int, k: int, *, full: bool) -> None:
    x = torch.empty(b * t, d, dtype=dtype)
    state = given(full, b, k - 1, d, kind=dtype)
    inputs = ConvInputs(
        x, torch.empty(d, k), given(full, d), state, index(b, t, full), full,
    )  # fmt: skip
    conv_backend.forward(inputs)
    conv_backend.backward(inputs, x, state)


def large_scan() -> None:
    """Element offsets that need 64 bits; on a device without memory."""
    with torch.device("meta"):
        scan(torch.bfloat16, 16, 1 << 20, 128, 16, full=True, biases=2)


def is_wide(kernel: Any) -> bool:
    """Whether a compiled kernel computes the offsets of rows in 64 bits."""
    names = kernel.src.fn.arg_names
    return any(
        names[at[0]] == "LONG_OFFSETS" and value for at, value in kernel.src.constants.items()
    )


VARIANTS: dict[str, Callable[[], None]] = {
    "scan, nothing optional": partial(scan, torch.bfloat16, 2, 64, 128, 16, full=False),
    "scan, odd sizes": partial(scan, torch.float16, 2, 131, 77, 5, full=True, biases=1),
    "scan, one token": partial(scan, torch.bfloat16, 1, 1, 64, 16, full=True, biases=2),
    "scan, all ones": partial(scan, torch.float32, 1, 1, 1, 1, full=False),
    "scan, segments, odd sizes": partial(scan, torch.bfloat16, 2, 1031, 40, 16, full=True),
    "scan, many states": partial(scan, torch.bfloat16, 2, 64, 64, 64, full=True, biases=2),
    "scan, 2^31 elements": large_scan,
    "conv, nothing optional": partial(conv, torch.bfloat16, 2, 128, 256, 4, full=False),
    "conv, one tap, odd sizes": partial(conv, torch.float32, 2, 5, 37, 1, full=False),
    "conv, eight taps": partial(conv, torch.float16, 2, 128, 64, 8, full=True),
    "conv, one token": partial(conv, torch.bfloat16, 1, 1, 64, 4, full=True),
    "conv, all ones": partial(conv, torch.float32, 1, 1, 1, 2, full=True),
}


if __name__ == "__main__":
    for name, variant in VARIANTS.items():
        with compiling_only(int(sys.argv[1])) as kernels:
            variant()
        offsets = ", 64-bit row offsets" if any(map(is_wide, kernels)) else ""
        print(f"{name}: {len(kernels)} kernels{offsets}", flush=True)
