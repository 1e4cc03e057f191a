"""The short way through a block: one op instead of a dozen, where that op serves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from ..ops import Routing
from ..ops.derivatives import formula_needed
from ..ops.mamba_block import Weights, mamba_block, why_not
from .linear import ModalityLinear
from .mixer import DepthwiseConv, MambaMixer
from .norm import RMSNorm
from .plain import as_built, no_global_hooks
from .state import MambaState

if TYPE_CHECKING:
    from .block import MambaBlock

__all__ = ["block_weights", "fused_forward", "is_plain"]

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")
_as_built = as_built(RMSNorm, MambaMixer, DepthwiseConv, ModalityLinear)


def fused_forward(
    block: MambaBlock, x: Tensor, routing: Routing, state: MambaState | None
) -> tuple[Tensor, MambaState] | None:
    """Rows and state after a block, or None where its parts must be called one by one: on other
    devices, in other dtypes, or where something hangs on one of them (see `is_plain`)."""
    if x.device.type != "cpu" or not is_plain(block):
        return None
    weights = block_weights(block)
    if why_not(x, weights, routing) is not None or formula_needed(x, *weights, *(state or ())):
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
    """Whether calling the parts would run what they were built with: every part of its own class,
    unhooked, unwrapped, and its parameters plain tensors. Hooks on the block itself run either way.
    """
    norm, mixer = block.norm, block.mixer
    if not (no_global_hooks() and type(norm) is RMSNorm and type(mixer) is MambaMixer):
        return False
    projections = [getattr(mixer, name) for name in PROJECTIONS]
    if type(mixer.conv1d) is not DepthwiseConv or norm.eps is None:
        return False
    if any(type(part) is not ModalityLinear for part in projections):
        return False
    if not all(map(_as_built, (norm, mixer, mixer.conv1d, *projections))):
        return False
    return all(v is None or type(v) in (Tensor, nn.Parameter) for v in _parameters(block))


def block_weights(block: MambaBlock) -> Weights:
    """The parameters of a block by their names in the op."""
    found = _parameters(block)
    return found._replace(conv_weight=found.conv_weight[:, 0])


def _parameters(block: MambaBlock) -> Weights:
    """The same as the modules have them: the convolution's weight is (d, 1, k)."""
    mixer = block.mixer
    return Weights(
        norm=block.norm.weight,
        in_weight=mixer.in_proj.weight,
        in_bias=mixer.in_proj.bias,
        conv_weight=mixer.conv1d.weight,
        conv_bias=mixer.conv1d.bias,
        x_weight=mixer.x_proj.weight,
        dt_weight=mixer.dt_proj.weight,
        dt_bias=cast(Tensor, mixer.dt_proj.bias),
        A_log=mixer.A_log,
        D=mixer.D,
        out_weight=mixer.out_proj.weight,
        out_bias=mixer.out_proj.bias,
    )
