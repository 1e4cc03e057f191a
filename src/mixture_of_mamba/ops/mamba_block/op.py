"""The whole block as one node of the graph; CPU only, composed of the kernels in cpu.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..selective_scan.cpu import STEPS, padded_states
from ..signature import Signature, schema
from . import cpu
from .inputs import BlockGrads, BlockInputs, Saved

__all__ = ["block", "block_backward"]

CALL = Signature(BlockInputs, BlockGrads)
KEPT = len(Saved._fields)


@torch.library.custom_op(
    "mixture_of_mamba::mamba_block",
    mutates_args=(),
    schema=f"({CALL.schema}, bool save) -> ({', '.join(['Tensor'] * (3 + KEPT))})",
)
def block(*args: Any) -> tuple[Tensor, ...]:
    """-> y (r, d_model), final states of convolution and scan, and Saved (empty without `save`)."""
    *call, save = args
    inputs = CALL.bind(call)
    y, conv_final, ssm_final, saved = cpu.forward(inputs, save)
    saved = saved._replace(checkpoints=saved.checkpoints.view(-1))  # see the scan's op
    if not save:
        saved = Saved(*(y.new_empty(0) for _ in Saved._fields))
    return y, conv_final, ssm_final, *saved


@block.register_fake
def _(*args: Any) -> tuple[Tensor, ...]:
    *call, save = args
    inputs = CALL.bind(call)
    x, w, (b, t) = inputs.x, inputs.weights, inputs.row_index.shape
    r, (d, n), k = x.shape[0], w.A_log.shape, w.conv_weight.shape[1]
    wide = x.new_empty(0, dtype=torch.float32)
    saved = Saved(*(x.new_empty(0) for _ in Saved._fields))
    if save:
        saved = Saved(
            h=x.new_empty(x.shape),
            scale=wide.new_empty(r),
            xz=x.new_empty(r, 2 * d),
            u=x.new_empty(r, d),
            dt_B_C=x.new_empty(r, w.x_weight.shape[1]),
            delta=x.new_empty(r, d),
            y=x.new_empty(r, d),
            checkpoints=wide.new_empty(b * -(-t // STEPS) * padded_states(d, n)),
        )
    return x.new_empty(x.shape), x.new_empty(b, k - 1, d), wide.new_empty(b, d, n), *saved


@torch.library.custom_op(
    "mixture_of_mamba::mamba_block_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? dconv_final, Tensor? dssm_final, {schema(Saved)},"
    f" {CALL.schema}) -> {CALL.gradients}",
)
def block_backward(
    dy: Tensor, dconv_final: Tensor | None, dssm_final: Tensor | None, *args: Any
) -> tuple[Tensor, ...]:
    """-> BlockGrads; empty tensors for absent ones."""
    saved, inputs = Saved(*args[:KEPT]), CALL.bind(args[KEPT:])
    grads = cpu.backward(inputs, saved, dy.contiguous(), dconv_final, dssm_final)
    return CALL.dense(grads, inputs.x)


@block_backward.register_fake
def _(*args: Any) -> tuple[Tensor, ...]:
    call = args[3 + KEPT :]
    return CALL.fake(call, call[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *call, _ = inputs
    CALL.save(ctx, call, *output[3:])
    # A final state that nobody differentiates must not arrive as a tensor of zeros.
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, dy: Tensor | None, dconv_final: Tensor | None, dssm_final: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    saved, call = CALL.saved(ctx)
    if dy is None:
        dy = torch.zeros_like(call[0])
    grads = block_backward(dy, dconv_final, dssm_final, *saved, *call)
    return *CALL.by_argument(grads, call), None


block.register_autograd(_backward, setup_context=_setup_context)
block_backward.register_autograd(no_second_derivative("a Mamba block"))
