"""Linear maps with one weight per modality over rows that are sorted by modality."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..derivatives import with_derivatives
from ..dispatch import choose, preferred
from ..routing import Routing
from .inputs import LinearInputs
from .op import linear
from .reference import modality_linear_formula, modality_linear_reference

__all__ = ["LinearInputs", "modality_linear", "modality_linear_reference"]


def modality_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    routing: Routing | None = None,
    backend: str | None = None,
) -> Tensor:
    """y[i] = weight[e] @ x[i] + bias[e], where e is the modality of row i.

    Args:
        x: (r, in) rows in the routing's order.
        weight: (m, out, in), one expert per modality; with m = 1 every row takes it, which is an
            ordinary linear layer and needs no routing.
        bias: (m, out).
        routing: the batch's routing; required for m > 1.
        backend: "grouped", "loop", "reference", or None for the best that can serve.

    Returns:
        (r, out). Experts without rows receive zero gradients.

    Raises:
        ValueError: shapes that do not fit together, or m experts without a routing of m modalities.
        TypeError: x, weight and bias of different dtypes, where autocast does not make them equal.
        BackendError: the named backend cannot serve this call.
    """
    m = _check(x, weight, bias)
    cast = _autocast_dtype(x.device.type)
    _check_dtypes(x, weight, bias, cast)
    if m == 1 and not preferred("modality_linear", backend):
        return F.linear(x, weight[0], None if bias is None else bias[0])
    if m == 1:
        offsets = torch.full((1,), x.shape[0], dtype=torch.int32, device=x.device)
        host = offsets if x.device.type == "cpu" else None
    elif routing is None:
        raise ValueError(f"weight has {m} experts; give the routing of the rows")
    elif routing.n_modalities != m:
        raise ValueError(
            f"weight has {m} experts, but the routing has {routing.n_modalities} modalities"
        )
    elif routing.batch * routing.length != x.shape[0]:
        raise ValueError(
            f"x has {x.shape[0]} rows, but the routing has {routing.batch} x {routing.length}"
        )
    else:
        offsets, host = routing.offsets, routing.host_offsets
    if cast is not None and x.dtype != torch.float64:
        # The op is opaque to autocast; cast as F.linear would.
        x, weight = x.to(cast), weight.to(cast)
        bias = None if bias is None else bias.to(cast)
    inputs = LinearInputs(x, weight, bias, offsets, host)
    named = preferred("modality_linear", backend)
    backend = with_derivatives("modality_linear", named, x, weight, bias)
    if backend == "reference":
        return modality_linear_reference(inputs) if named else modality_linear_formula(inputs)
    if backend:
        choose("modality_linear", inputs, backend)
    return linear(*inputs, backend)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    if weight.ndim != 3:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; (experts, out, in) is needed")
    m, out, width = weight.shape
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"x has shape {tuple(x.shape)}; (rows, {width}) is needed for this weight")
    if bias is not None and bias.shape != (m, out):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; ({m}, {out}) is needed")
    for name, other in (("weight", weight), ("bias", bias)):
        if other is not None and other.device != x.device:
            raise ValueError(f"{name} is on {other.device}, but x is on {x.device}; use one device")
    return m


def _autocast_dtype(device_type: str) -> torch.dtype | None:
    """What autocast makes of its operands on this device; None where it is off."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def _check_dtypes(x: Tensor, weight: Tensor, bias: Tensor | None, cast: torch.dtype | None) -> None:
    def seen(v: Tensor) -> torch.dtype:
        return v.dtype if cast is None or v.dtype == torch.float64 else cast

    for name, other in (("weight", weight), ("bias", bias)):
        if other is None or seen(other) == seen(x):
            continue
        double = torch.float64 in (x.dtype, other.dtype)
        advice = " (autocast leaves float64 alone)" if double else ", or run under torch.autocast"
        raise TypeError(
            f"{name} is {other.dtype}, but x is {x.dtype}; modality_linear takes one dtype for x, "
            f"weight and bias: cast one of them{advice}"
        )


@register_flop_formula(torch.ops.mixture_of_mamba.modality_linear)
def _forward_flops(x, weight, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return 2 * x[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.mixture_of_mamba.modality_linear_backward)
def _backward_flops(  # type: ignore[no-untyped-def]
    dy, x, weight, *args, out_shape=None, **kwargs
) -> int:
    *_, need_x, need_weight, _, _ = args
    return 2 * x[0] * weight[1] * weight[2] * (int(need_x) + int(need_weight))
