"""The stacked projection as one node of the graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from .inputs import LinearInputs

__all__ = ["linear"]

Grads = tuple[Tensor, Tensor, Tensor]
# Not a list: torch.autograd.grad(…, is_grads_batched=True) calls such an op once per entry.


@torch.library.custom_op("mixture_of_mamba::modality_linear", mutates_args=())
def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    host_offsets: Tensor | None,
    backend: str,
) -> Tensor:
    """-> y (r, out)."""
    inputs = LinearInputs(x, weight, bias, offsets, host_offsets)
    return choose("modality_linear", inputs, backend)[1].forward(inputs)


@linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    host_offsets: Tensor | None,
    backend: str,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@torch.library.custom_op("mixture_of_mamba::modality_linear_backward", mutates_args=())
def linear_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    host_offsets: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    backend: str,
) -> Grads:
    """-> gradients of x, weight, bias; empty tensors where not needed."""
    inputs = LinearInputs(x, weight, None, offsets, host_offsets)
    module = choose("modality_linear", inputs, backend)[1]
    grads = module.backward(inputs, dy, (need_x, need_weight, need_bias))
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]


@linear_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Tensor,
    host_offsets: Tensor | None,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    backend: str,
) -> Grads:
    return (
        x.new_empty(x.shape) if need_x else x.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else x.new_empty(0),
        weight.new_empty(weight.shape[:2]) if need_bias else x.new_empty(0),
    )


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, _, offsets, host_offsets, backend = inputs
    ctx.save_for_backward(x, weight, offsets, host_offsets)
    ctx.backend = backend


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    needs = ctx.needs_input_grad[:3]
    # An expanded gradient (of a sum, say) has zero strides, which matrix products refuse.
    grads = linear_backward(dy.contiguous(), *ctx.saved_tensors, *needs, ctx.backend)
    dx, dw, db = (g if need else None for g, need in zip(grads, needs, strict=True))
    return dx, dw, db, None, None, None


linear.register_autograd(_backward, setup_context=_setup_context)
linear_backward.register_autograd(no_second_derivative("modality_linear"))
