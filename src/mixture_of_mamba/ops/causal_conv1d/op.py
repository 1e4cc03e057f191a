"""The convolution as one node of the graph: custom ops with fake, autograd and backend choice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from ..signature import Signature
from .inputs import ConvGrads, ConvInputs

__all__ = ["conv"]

CALL = Signature(ConvInputs, ConvGrads)


@torch.library.custom_op(
    "mixture_of_mamba::causal_conv1d",
    mutates_args=(),
    schema=f"({CALL.schema}, str backend) -> (Tensor, Tensor)",
)
def conv(*args: Any) -> tuple[Tensor, Tensor]:
    """-> y (r, d), final state (b, k-1, d), both in x's dtype."""
    *call, backend = args
    inputs = CALL.bind(call)
    return choose("causal_conv1d", inputs, backend)[1].forward(inputs)  # type: ignore[no-any-return]


@conv.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor]:
    inputs = CALL.bind(args[:-1])
    x = inputs.x
    return x.new_empty(x.shape), x.new_empty(inputs.row_index.batch, inputs.k - 1, inputs.d)


@torch.library.custom_op(
    "mixture_of_mamba::causal_conv1d_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? dfinal, {CALL.schema}, str backend) -> {CALL.gradients}",
)
def conv_backward(dy: Tensor, dfinal: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    """-> ConvGrads; empty tensors for absent ones."""
    *call, backend = args
    inputs = CALL.bind(call)
    grads = choose("causal_conv1d", inputs, backend)[1].backward(inputs, dy, dfinal)
    return CALL.dense(grads, inputs.x)


@conv_backward.register_fake
def _(dy: Tensor, dfinal: Tensor | None, *args: Any) -> tuple[Tensor, ...]:
    return CALL.fake(args[:-1], args[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *call, ctx.backend = inputs
    CALL.save(ctx, call)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
    _, call = CALL.saved(ctx)
    if dy is None:
        dy = torch.zeros_like(call[0])
    grads = conv_backward(dy, dfinal, *call, ctx.backend)
    return *CALL.by_argument(grads, call), None


conv.register_autograd(_backward, setup_context=_setup_context)
conv_backward.register_autograd(no_second_derivative("causal_conv1d"))
