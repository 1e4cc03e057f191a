"""The short way through a block: one op instead of a dozen, where that op serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from ..ops import Routing
from ..ops.mamba_block import Weights, mamba_block, why_not
from .linear import ModalityLinear
from .norm import RMSNorm
from .state import MambaState

if TYPE_CHECKING:
    from .block import MambaBlock

__all__ = ["block_weights", "fused_forward", "is_plain"]

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")


def fused_forward(
    block: MambaBlock, x: Tensor, routing: Routing, state: MambaState | None
) -> tuple[Tensor, MambaState] | None:
    """What `MambaBlock.forward_rows` returns, or None where the composed block must run: on other
    devices, in other dtypes, or where a part was wrapped, hooked or replaced (by an adapter)."""
    if x.device.type != "cpu" or not is_plain(block):
        return None
    weights = block_weights(block)
    if why_not(x, weights, routing) is not None:
        return None
    b, d = routing.batch, weights.D.shape[0]
    if state is not None and (
        state.conv.shape != (b, weights.conv_weight.shape[1] - 1, d)
        or state.ssm.shape != (b, *weights.A_log.shape)
    ):
        return None
    y, conv, ssm = mamba_block(
        x,
        weights,
        routing,
        conv_state=None if state is None else state.conv,
        ssm_state=None if state is None else state.ssm,
        eps=cast(float, block.norm.eps),
    )
    return y, MambaState(conv, ssm)


def is_plain(block: MambaBlock) -> bool:
    """Whether every part is the module that it was built as, with plain parameters and no hooks."""
    mixer = block.mixer
    if type(block.norm) is not RMSNorm or block.norm.eps is None:
        return False
    parts = [block.norm, mixer, mixer.conv1d, *(getattr(mixer, name) for name in PROJECTIONS)]
    if any(type(part) is not ModalityLinear for part in parts[3:]):
        return False
    if any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        for part in parts
    ):
        return False
    return all(type(p) in (Tensor, nn.Parameter) for part in parts for p in _own(part))


def block_weights(block: MambaBlock) -> Weights:
    """The parameters of a block by their names in the op."""
    mixer = block.mixer
    return Weights(
        norm=block.norm.weight,
        in_weight=mixer.in_proj.weight,
        in_bias=mixer.in_proj.bias,
        conv_weight=mixer.conv1d.weight[:, 0],
        conv_bias=mixer.conv1d.bias,
        x_weight=mixer.x_proj.weight,
        dt_weight=mixer.dt_proj.weight,
        dt_bias=cast(Tensor, mixer.dt_proj.bias),
        A_log=mixer.A_log,
        D=mixer.D,
        out_weight=mixer.out_proj.weight,
        out_bias=mixer.out_proj.bias,
    )


def _own(part: nn.Module) -> list[Tensor]:
    return [p for p in part._parameters.values() if p is not None]
