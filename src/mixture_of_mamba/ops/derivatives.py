"""Derivatives that the kernels do not have, and what happens when they are asked for.

Every op has its first derivative in reverse mode. Forward mode (dual numbers, `torch.func.jvp`)
and the transforms of `torch.func` never reach an operator's own formula: the op would run on the
bare values, and a tangent would silently be zero. So ops ask `formula_needed` and then run
their formula in torch's operations, which has all derivatives. Whether a second derivative will be
asked for is not known in the forward; there is an error instead (`no_second_derivative`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .dispatch import BackendError

__all__ = ["formula_needed", "no_second_derivative", "with_derivatives"]


@torch.compiler.assume_constant_result
def _transformed() -> bool:
    """Whether a transform of torch.func is under way (while compiling: in what is traced)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def formula_needed(*tensors: Tensor | None) -> bool:
    """Whether derivatives may be wanted that only the formula has; `tensors` may have tangents."""
    if _transformed():
        return True
    return forward_ad._current_level >= 0 and any(
        x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors
    )


def with_derivatives(op: str, backend: str, *tensors: Tensor | None) -> str:
    """The backend of a call: `backend`, or "reference" where only the formula has the derivatives.

    Raises:
        BackendError: another one is named ("" names none).
    """
    if backend == "reference" or not formula_needed(*tensors):
        return backend
    if backend:
        raise BackendError(
            f"{op}: backend {backend!r} has neither forward-mode derivatives nor the transforms of "
            "torch.func; name 'reference', or no backend"
        )
    return "reference"


def no_second_derivative(op: str, remedy: str = "") -> Callable[..., Any]:
    """The derivative of an op's derivative: an error that says what has one.

    Args:
        op: its name, for the message.
        remedy: what to do; by default, to name the formulas as backends.
    """
    remedy = remedy or (
        'run the forward under use_backend(selective_scan="reference", causal_conv1d="reference", '
        'modality_linear="reference")'
    )

    def derivative(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(
            f"{op} has no second derivative: its kernels compute the first one only; {remedy}"
        )

    return derivative
