"""The stacked projection as one node of the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from ..signature import Signature
from .inputs import LinearGrads, LinearInputs

__all__ = ["linear"]

CALL = Signature(LinearInputs, LinearGrads)


@torch.library.custom_op(
    "mixture_of_mamba::modality_linear",
    mutates_args=(),
    schema=f"({CALL.schema}, str backend) -> Tensor",
)
def linear(*args: Any) -> Tensor:
    """-> y (r, out)."""
    *call, backend = args
    inputs = CALL.bind(call)
    return choose("modality_linear", inputs, backend)[1].forward(inputs)  # type: ignore[no-any-return]


@linear.register_fake
def _(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@torch.library.custom_op(
    "mixture_of_mamba::modality_linear_backward",
    mutates_args=(),
    schema=f"(Tensor dy, {CALL.schema}, bool need_x, bool need_weight, bool need_bias, str backend)"
    f" -> {CALL.gradients}",
)
def linear_backward(dy: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """-> LinearGrads; empty tensors where not needed."""
    *call, need_x, need_weight, need_bias, backend = args
    inputs = CALL.bind(call)
    module = choose("modality_linear", inputs, backend)[1]
    return CALL.dense(module.backward(inputs, dy, (need_x, need_weight, need_bias)), inputs.x)


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, ...]:
    *_, need_x, need_weight, need_bias, _ = args
    needs = (need_x, need_weight, need_bias)
    shapes = (x.shape, weight.shape, weight.shape[:2])
    return tuple(x.new_empty(s if need else 0) for s, need in zip(shapes, needs, strict=True))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *call, ctx.backend = inputs
    call[2] = None  # the bias is not read by the backward
    CALL.save(ctx, call)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    _, call = CALL.saved(ctx)
    needs = ctx.needs_input_grad[:3]
    # An expanded gradient (of a sum, say) has zero strides, which matrix products refuse.
    grads = linear_backward(dy.contiguous(), *call, *needs, ctx.backend)
    dx, dw, db = (g if need else None for g, need in zip(grads, needs, strict=True))
    return dx, dw, db, None, None, None


linear.register_autograd(_backward, setup_context=_setup_context)
linear_backward.register_autograd(no_second_derivative("modality_linear"))
