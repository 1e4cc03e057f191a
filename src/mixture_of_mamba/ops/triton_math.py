"""Small Triton functions that the kernels share; imported at the first launch of a kernel."""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["LOG2E", "sigmoid", "softplus"]

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) in float32; the exponential saturates, so no branch is needed."""
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def softplus(x):
    """log(1 + exp(x)) in float32, to a few units in the last place also where it is tiny.

    log(1 + e) loses all digits of a small e, and step sizes of 1e-3 are the rule here; below 0.05
    the series of log1p is exact to float32.
    """
    e = tl.exp2(-tl.abs(x) * LOG2E)
    series = e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * (0.25 - e * 0.2))))
    return tl.maximum(x, 0.0) + tl.where(e < 0.05, series, tl.log(1.0 + e))
