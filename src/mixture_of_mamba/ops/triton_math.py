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
    """1 / (1 + exp(-x)) in float32, by way of 1 / sqrt: a division takes six more instructions. The
    exponential saturates at both ends, so no branch is needed."""
    root = tl.rsqrt(1.0 + tl.exp2(-x * LOG2E))
    return root * root


@triton.jit
def softplus(x):
    """log(1 + exp(x)) in float32, relative error below 2e-7 also where it is tiny.

    With e = exp(-|x|) in [0, 1] it is max(x, 0) + log(1 + e). Taking the logarithm of 1 + e would
    lose all digits of a small e, and steps of 1e-3 are the rule here. log(1 + e) / e is smooth:
    here, its polynomial of degree 8 with the smallest relative error (1.7e-7 in float32).
    """
    e = tl.exp2(-tl.abs(x) * LOG2E)
    p = 0.00523267081 * e - 0.0295051448
    p = p * e + 0.0782257989
    p = p * e - 0.136632323
    p = p * e + 0.191060007
    p = p * e - 0.248429805
    p = p * e + 0.333190978
    p = p * e - 0.499994934
    p = p * e + 0.99999994
    return tl.maximum(x, 0.0) + p * e
