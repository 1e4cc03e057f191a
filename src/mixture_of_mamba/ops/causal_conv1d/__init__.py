"""Causal depthwise convolution with states, document resets and a row index."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ...flop_formulas import conv_flops
from ..derivatives import with_derivatives
from ..dispatch import choose, preferred
from ..routing import Routing, RowIndex, document_starts
from ..signature import arguments
from .inputs import ConvGrads, ConvInputs
from .op import conv
from .reference import causal_conv1d_reference

__all__ = ["ConvGrads", "ConvInputs", "causal_conv1d", "causal_conv1d_reference"]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = "silu",
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
    routing: Routing | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """y[t] = act(bias + sum_j weight[:, k-1-j] * x[t-j]).

    Args:
        x: (b, t, d) input; with `routing`, (r, d) in row order.
        weight: (d, k) taps; the last meets the present.
        bias: (d,).
        activation: "silu" or None.
        state: (b, k-1, d) the inputs before t = 0, oldest first; zeros by default.
        document_ids: (b, t); nothing before a change along t is seen after it.
        routing: row order and resets of each token, made once per batch.
        backend: "triton", "cpu", "torch", "reference", or None for the best that can serve.

    Returns:
        y like x, and the final state (b, k-1, d) in x's dtype.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit together.
        BackendError: the named backend cannot serve this call.
    """
    inputs = _inputs(x, weight, bias, activation, state, document_ids, routing)
    backend = preferred("causal_conv1d", backend)
    backend = with_derivatives("causal_conv1d", backend, x, weight, bias, state)
    if backend == "reference":
        y, final = causal_conv1d_reference(inputs)
    else:
        if backend:
            choose("causal_conv1d", inputs, backend)
        y, final = conv(*arguments(inputs), backend)
    return (y.view(x.shape) if routing is None else y), final


def _inputs(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    state: Tensor | None,
    document_ids: Tensor | None,
    routing: Routing | None,
) -> ConvInputs:
    if activation not in ("silu", None):
        raise ValueError(f"activation is {activation!r}; choose 'silu' or None")
    if not x.is_floating_point():
        raise TypeError(f"x is {x.dtype}; a floating dtype is needed")
    if x.ndim != (3 if routing is None else 2):
        need = "(batch, time, channels)" if routing is None else "with routing, (rows, channels)"
        raise ValueError(f"x has shape {tuple(x.shape)}; {need} is needed")
    d = x.shape[-1]
    if weight.ndim != 2 or weight.shape[0] != d or weight.shape[1] < 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; ({d}, taps) is needed")
    if bias is not None and bias.shape != (d,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; ({d},) is needed")
    b, t = (x.shape[0], x.shape[1]) if routing is None else (routing.batch, routing.length)
    if routing is not None and x.shape[0] != b * t:
        raise ValueError(f"x has {x.shape[0]} rows, but the routing has {b} x {t} positions")
    k = weight.shape[1]
    if state is not None and state.shape != (b, k - 1, d):
        raise ValueError(f"state has shape {tuple(state.shape)}; {(b, k - 1, d)} is needed")
    for name, other in (("weight", weight), ("bias", bias), ("state", state)):
        if other is not None and other.device != x.device:
            raise ValueError(f"{name} is on {other.device}, but x is on {x.device}; use one device")
    if state is not None:
        state = state.to(x.dtype)
    index: RowIndex
    if routing is None:
        resets = document_starts(document_ids, torch.Size((b, t)))
        index, x = RowIndex(None, None, resets, b, t), x.reshape(b * t, d)
    else:
        index = routing
    return ConvInputs(x, weight, bias, state, index, activation == "silu")


@register_flop_formula(torch.ops.mixture_of_mamba.causal_conv1d)
def _forward_flops(x, weight, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    *_, silu, _ = args
    return conv_flops(x[0], *weight, silu=silu)


@register_flop_formula(torch.ops.mixture_of_mamba.causal_conv1d_backward)
def _backward_flops(dy, dfinal, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return 2 * _forward_flops(*args)
