"""The whole block as one node of the graph; CPU only, composed of the kernels in cpu.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..selective_scan.cpu import STEPS, padded_states
from . import cpu

__all__ = ["block", "block_backward"]

_N_WEIGHTS, _N_PLAN = len(cpu.Weights._fields), len(cpu.Plan._fields)

# fmt: off
Grads = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
]
# fmt: on
# Not a list: torch.autograd.grad(…, is_grads_batched=True) calls such an op once per entry.


@torch.library.custom_op("mixture_of_mamba::mamba_block", mutates_args=())
def block(
    x: Tensor,
    norm: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    batch: int,
    length: int,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    eps: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """-> y (r, d_model), final states of convolution and scan, and what the backward reads
    (cpu.Saved; empty without `save`)."""
    weights = cpu.Weights(
        *(norm, in_weight, in_bias, conv_weight, conv_bias, x_weight, dt_weight, dt_bias),
        *(A_log, D, out_weight, out_bias),
    )
    plan = cpu.Plan(rows, modality, resets, offsets, batch, length)
    y, conv_final, ssm_final, saved = cpu.forward(
        x, weights, plan, conv_state, ssm_state, eps, save
    )
    saved = saved._replace(checkpoints=saved.checkpoints.view(-1))  # see the scan's op
    if not save:
        saved = cpu.Saved(*(x.new_empty(0) for _ in cpu.Saved._fields))
    return (y, conv_final, ssm_final, *saved)  # type: ignore[return-value]


@block.register_fake
def _(
    x: Tensor,
    norm: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    batch: int,
    length: int,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    eps: float,
    save: bool,
) -> Any:
    r, (d, n), k = x.shape[0], A_log.shape, conv_weight.shape[1]
    wide = x.new_empty(0, dtype=torch.float32)
    saved = [x.new_empty(0) for _ in cpu.Saved._fields]
    if save:
        saved = [
            x.new_empty(x.shape),
            wide.new_empty(r),
            x.new_empty(r, 2 * d),
            x.new_empty(r, d),
            x.new_empty(r, x_weight.shape[1]),
            x.new_empty(r, d),
            x.new_empty(r, d),
            wide.new_empty(batch * -(-length // STEPS) * padded_states(d, n)),
        ]
    return (
        x.new_empty(x.shape),
        x.new_empty(batch, k - 1, d),
        wide.new_empty(batch, d, n),
        *saved,
    )


@torch.library.custom_op("mixture_of_mamba::mamba_block_backward", mutates_args=())
def block_backward(
    dy: Tensor,
    dconv_final: Tensor | None,
    dssm_final: Tensor | None,
    h: Tensor,
    scale: Tensor,
    xz: Tensor,
    u: Tensor,
    maps: Tensor,
    delta: Tensor,
    y: Tensor,
    checkpoints: Tensor,
    x: Tensor,
    norm: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_weight: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out_weight: Tensor,
    out_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    batch: int,
    length: int,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
) -> Grads:
    """-> gradients of x, the weights and the two states; empty tensors for absent ones.

    The tensors after the gradients are cpu.Saved.
    """
    weights = cpu.Weights(
        *(norm, in_weight, in_bias, conv_weight, conv_bias, x_weight, dt_weight, dt_bias),
        *(A_log, D, out_weight, out_bias),
    )
    plan = cpu.Plan(rows, modality, resets, offsets, batch, length)
    dx, dweights, dconv, dssm = cpu.backward(
        dy.contiguous(),
        dconv_final,
        dssm_final,
        x,
        weights,
        plan,
        conv_state,
        ssm_state,
        cpu.Saved(h, scale, xz, u, maps, delta, y, checkpoints),
    )
    grads = (dx, *dweights, dconv, dssm)
    return tuple(x.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]


@block_backward.register_fake
def _(*args: Any) -> Grads:
    x, *rest = args[3 + len(cpu.Saved._fields) :]
    leaves = (x, *rest[:_N_WEIGHTS], *rest[_N_WEIGHTS + _N_PLAN :])
    return tuple(x.new_empty(0) if v is None else v.new_empty(v.shape) for v in leaves)  # type: ignore[return-value]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, rest = inputs[0], inputs[1:]
    weights, plan, rest = rest[:_N_WEIGHTS], rest[_N_WEIGHTS:][:_N_PLAN], rest[_N_WEIGHTS:]
    states = rest[_N_PLAN : _N_PLAN + 2]
    *tensors, ctx.batch, ctx.length = plan
    ctx.save_for_backward(*output[3:], x, *weights, *tensors, *states)
    # A final state that nobody differentiates must not arrive as a tensor of zeros.
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dconv_final, dssm_final, *_):  # type: ignore[no-untyped-def]
    count = len(cpu.Saved._fields)
    tensors = ctx.saved_tensors  # once: recomputed activations are unpacked a single time
    saved, (x, *rest) = tensors[:count], tensors[count:]
    weights, tensors, states = rest[:_N_WEIGHTS], rest[_N_WEIGHTS:-2], rest[-2:]
    if dy is None:
        dy = torch.zeros_like(x)
    grads = block_backward(
        *(dy, dconv_final, dssm_final, *saved, x, *weights, *tensors),
        *(ctx.batch, ctx.length, *states),
    )
    found = [
        g if v is not None else None for g, v in zip(grads, (x, *weights, *states), strict=True)
    ]
    return *found[:-2], *[None] * _N_PLAN, *found[-2:], None, None


block.register_autograd(_backward, setup_context=_setup_context)
block_backward.register_autograd(no_second_derivative("a Mamba block"))
