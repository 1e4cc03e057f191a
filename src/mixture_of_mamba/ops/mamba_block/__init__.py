"""A whole Mamba block in one op, where the CPU kernels serve it; equal to the composed block."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ...flop_formulas import conv_flops, scan_flops
from .. import dispatch, native
from ..causal_conv1d.cpu import MOST_TAPS
from ..routing import Routing
from ..selective_scan.cpu import DTYPES, MOST_STATES
from ..signature import arguments
from .inputs import BlockInputs, Weights
from .op import KEPT, block

__all__ = ["Weights", "mamba_block", "why_not"]

#: Ops that a block is composed of.
PARTS = {"selective_scan", "causal_conv1d", "modality_linear"}


def why_not(x: Tensor, w: Weights, routing: Routing) -> str | None:
    """None where `mamba_block` serves this call, else the reason.

    Shapes that contradict each other are a reason too: the composed block then says what is wrong.
    """
    if x.device.type != "cpu":
        return f"the tensors are on {x.device.type}"
    if x.dtype not in DTYPES:
        return f"it serves float32 and bfloat16, not {x.dtype}"
    if named := sorted(dispatch.preferences().keys() & PARTS):
        return f"backends are chosen by name: {named}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast chooses the dtypes of single ops"
    if any(v.dtype != x.dtype for v in (w.in_weight, w.x_weight, w.dt_weight, w.out_weight)):
        return f"a projection is not {x.dtype}"
    if any(v.dtype == torch.float64 for v in (w.A_log, w.D, w.dt_bias, w.norm, w.conv_weight)):
        return "a parameter is float64"
    m = routing.n_modalities
    if any(v.shape[0] not in (1, m) for v in (w.in_weight, w.x_weight, w.dt_weight, w.out_weight)):
        return f"a projection has neither one expert nor {m}"
    if x.ndim != 2 or x.shape != (routing.batch * routing.length, w.in_weight.shape[2]):
        return "x is not one row per position of the routing"
    if w.A_log.shape[1] > MOST_STATES or w.conv_weight.shape[1] > MOST_TAPS:
        return f"it serves up to {MOST_STATES} states and {MOST_TAPS} taps"
    if routing.host_offsets is None:
        return "the row counts are not on the host"
    return native.why_not()


def mamba_block(
    x: Tensor,
    weights: Weights,
    routing: Routing,
    *,
    conv_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """x + mixer(norm(x)) on rows, for calls that `why_not` lets pass.

    Args:
        x: (r, d_model) rows in the routing's order.
        weights: see Weights.
        conv_state, ssm_state: (b, k-1, d) and (b, d, n) states before t = 0; zeros by default.
        eps: of the norm.

    Returns:
        (r, d_model), and the two states after the last position.
    """
    needed = (x, *weights, conv_state, ssm_state)
    save = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in needed)
    inputs = BlockInputs(
        x=x.contiguous(),
        weights=weights,
        conv_state=None if conv_state is None else conv_state.to(x.dtype),
        ssm_state=None if ssm_state is None else ssm_state.float(),
        row_index=routing,
        offsets=routing.offsets,
        eps=eps,
    )
    y, conv_final, ssm_final, *_ = block(*arguments(inputs), save)
    return y, conv_final, ssm_final


@register_flop_formula(torch.ops.mixture_of_mamba.mamba_block)
def _forward_flops(x, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    w = Weights(*args[: len(Weights._fields)])  # shapes
    products = sum(p[1] * p[2] for p in (w.in_weight, w.x_weight, w.dt_weight, w.out_weight))
    rows = x[0]
    return 2 * rows * products + conv_flops(rows, *w.conv_weight) + scan_flops(rows, *w.A_log)


@register_flop_formula(torch.ops.mixture_of_mamba.mamba_block_backward)
def _backward_flops(*args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return 2 * _forward_flops(*args[3 + KEPT :])
