"""The fused forward of a block: one op instead of a dozen, where that op serves it (on CPUs)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..ops import Routing
from ..ops.derivatives import formula_needed
from ..ops.mamba_block import Weights, mamba_block, why_not
from .config import PROJECTION_ORDER
from .linear import ModalityLinear
from .mixer import DepthwiseConv, MambaMixer
from .plain import as_built, no_global_hooks
from .state import MambaState

__all__ = ["block_weights", "fused_forward", "fused_weights", "plain_weights"]

#: Classes of the parts that `_parts` gives.
_KINDS = (nn.RMSNorm, MambaMixer, DepthwiseConv, *[ModalityLinear] * len(PROJECTION_ORDER))
_PLAIN = (nn.Parameter, Tensor, type(None))
_as_built = as_built(*_KINDS)


def fused_weights(
    block: nn.Module, x: Tensor, routing: Routing, state: MambaState | None
) -> Weights | None:
    """The parameters of a MambaBlock where `fused_forward` serves this call. None where the parts
    of the block must be called one by one: on other devices, in other dtypes, or where one of them
    is not plain (see `plain_weights`)."""
    weights = plain_weights(block) if x.device.type == "cpu" else None
    if weights is None or why_not(x, weights, routing) is not None:
        return None
    if formula_needed(x, *weights, *(state or ())):
        return None
    b, d = routing.batch, weights.D.shape[0]
    if state is not None and (
        state.conv.shape != (b, weights.conv_weight.shape[1] - 1, d)
        or state.ssm.shape != (b, *weights.A_log.shape)
    ):
        return None
    return weights


def fused_forward(
    weights: Weights, x: Tensor, routing: Routing, state: MambaState | None, *, eps: float
) -> tuple[Tensor, MambaState]:
    """(r, d_model) rows after a block of these weights, and the state after them."""
    y, conv, ssm = mamba_block(
        x,
        weights,
        routing,
        conv_state=None if state is None else state.conv,
        ssm_state=None if state is None else state.ssm,
        eps=eps,
    )
    return y, MambaState(conv, ssm)


def plain_weights(block: nn.Module) -> Weights | None:
    """The parameters of a MambaBlock all of whose parts are plain: each of its own class, without
    hooks or wrappers, its parameters plain tensors; else None. Hooks on the block itself run either
    way.
    """
    if type(block.mixer) is not MambaMixer or not no_global_hooks():
        return None
    parts = _parts(block)
    if tuple(map(type, parts)) != _KINDS or not all(map(_as_built, parts)):
        return None
    weights = _weights(*parts)
    if parts[0].eps is None or any(type(w) not in _PLAIN for w in weights):
        return None
    return weights._replace(conv_weight=weights.conv_weight[:, 0])


def block_weights(block: nn.Module) -> Weights:
    """The parameters of a MambaBlock by their names in the op."""
    weights = _weights(*_parts(block))
    return weights._replace(conv_weight=weights.conv_weight[:, 0])


def _parts(block: nn.Module) -> tuple[Any, ...]:
    mixer: Any = block.mixer
    return block.norm, mixer, mixer.conv1d, *[getattr(mixer, name) for name in PROJECTION_ORDER]


def _weights(
    norm: Any, mixer: Any, conv1d: Any, in_proj: Any, x_proj: Any, dt_proj: Any, out_proj: Any
) -> Weights:
    """As the parts have them: the convolution's weight is (d, 1, k)."""
    return Weights(
        norm=norm.weight,
        in_weight=in_proj.weight,
        in_bias=in_proj.bias,
        conv_weight=conv1d.weight,
        conv_bias=conv1d.bias,
        x_weight=x_proj.weight,
        dt_weight=dt_proj.weight,
        dt_bias=dt_proj.bias,
        A_log=mixer.A_log,
        D=mixer.D,
        out_weight=out_proj.weight,
        out_bias=out_proj.bias,
    )
