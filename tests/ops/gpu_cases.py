"""Cases of the Triton kernels in 16 bits, for tests on a GPU and for those with a faked one."""

from __future__ import annotations

import torch

from .scan_cases import Case

__all__ = ["CASES", "LIMITS", "dtypes_of", "rounded"]

# Rounding of y and of each gradient to 8 (bfloat16) or 11 (float16) bits; sums over time and
# channels average it out, but parameters see cancellation.
LIMITS = {
    torch.bfloat16: {"default": 1e-2, "dA": 2e-2, "dD": 2e-2, "ddelta_bias": 2e-2},
    torch.float16: {"default": 2e-3, "dA": 5e-3, "dD": 5e-3, "ddelta_bias": 5e-3},
    torch.float32: {"default": 1e-5, "dA": 2e-5, "dD": 2e-5, "ddelta_bias": 2e-5},
}
CASES = {
    "tiles and a bit": Case(length=131, d=77, modalities=3, documents=True, state=True),
    "whole tiles": Case(batch=3, length=256, d=128, modalities=2, documents=True),
    "many states": Case(length=70, d=40, n=64, state=True),
    "cut into segments": Case(batch=1, length=1024, d=64, modalities=2, documents=True, state=True),
}


def dtypes_of(dtype: torch.dtype) -> dict[str, torch.dtype]:
    wide = dict.fromkeys(("A", "D", "delta_bias", "weight", "bias"), torch.float32)
    return {"default": dtype, **wide}


def rounded(
    inputs: dict[str, torch.Tensor | None], dtype: torch.dtype
) -> dict[str, torch.Tensor | None]:
    """The inputs as the kernels get them, so that errors are the kernels' own."""
    dtypes = dtypes_of(dtype)
    return {
        name: None if x is None else x.to(dtypes.get(name, dtype)).double()
        for name, x in inputs.items()
    }
