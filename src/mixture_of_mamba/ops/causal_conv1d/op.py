"""The convolution as one node of the graph: custom ops with fake, autograd and backend choice."""

from __future__ import annotations

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from .inputs import ConvInputs

__all__ = ["conv"]

Grads = tuple[Tensor, Tensor, Tensor, Tensor]
# Not a list: torch.autograd.grad(…, is_grads_batched=True) calls such an op once per entry.


@torch.library.custom_op("mixture_of_mamba::causal_conv1d", mutates_args=())
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> y (r, d), final state (b, k-1, d), both in x's dtype."""
    inputs = ConvInputs(x, weight, bias, rows, resets, state, batch, length, silu)
    return choose("causal_conv1d", inputs, backend)[1].forward(inputs)


@conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    d, k = weight.shape
    return x.new_empty(x.shape), x.new_empty(batch, k - 1, d)


@torch.library.custom_op("mixture_of_mamba::causal_conv1d_backward", mutates_args=())
def conv_backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    silu: bool,
    backend: str,
) -> Grads:
    """-> gradients of x, weight, bias, state; empty tensors for absent ones."""
    inputs = ConvInputs(x, weight, bias, rows, resets, state, batch, length, silu)
    grads = choose("causal_conv1d", inputs, backend)[1].backward(inputs, dy, dfinal)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]


@conv_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    silu: bool,
    backend: str,
) -> Grads:
    leaves = (x, weight, bias, state)
    return tuple(x.new_empty(0) if v is None else v.new_empty(v.shape) for v in leaves)  # type: ignore[return-value]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, batch, length, silu, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.call = batch, length, silu, backend
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dfinal):  # type: ignore[no-untyped-def]
    tensors = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(tensors[0])
    grads = conv_backward(dy, dfinal, *tensors, *ctx.call)
    leaves = (*tensors[:3], tensors[5])
    dx, dweight, dbias, dstate = (
        g if v is not None else None for g, v in zip(grads, leaves, strict=True)
    )
    return dx, dweight, dbias, None, None, dstate, *[None] * 4


conv.register_autograd(_backward, setup_context=_setup_context)
conv_backward.register_autograd(no_second_derivative("causal_conv1d"))
