"""The scan as one node of the graph: custom ops with fake, autograd and the choice of backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from .inputs import ScanInputs

__all__ = ["scan"]

Grads = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
# Not a list: torch.autograd.grad(…, is_grads_batched=True) calls such an op once per entry.


@torch.library.custom_op("mixture_of_mamba::selective_scan", mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    softplus: bool,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """-> y (r, d) in u's dtype, final state (b, d, n) in A's dtype, checkpoints of the backward.

    These are flat: as an axis of its own, a count of chunks that may be 1 would be a bound on the
    length of an exported program.
    """
    inputs = ScanInputs(
        u, delta, A, B, C, D, z, delta_bias, rows, modality, resets, state, batch, length, softplus
    )
    y, final, checkpoints = choose("selective_scan", inputs, backend)[1].forward(inputs, save)
    return y, final, checkpoints.view(-1)


@scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    softplus: bool,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = ScanInputs(
        u, delta, A, B, C, D, z, delta_bias, rows, modality, resets, state, batch, length, softplus
    )
    kept = 0
    if save:
        shape = choose("selective_scan", inputs, backend)[1].checkpoint_shape(inputs)
        kept = math.prod(shape)
    return (
        u.new_empty(u.shape),
        A.new_empty(batch, *A.shape),
        A.new_empty(kept),
    )


@torch.library.custom_op("mixture_of_mamba::selective_scan_backward", mutates_args=())
def scan_backward(
    dy: Tensor,
    dfinal: Tensor | None,
    checkpoints: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    softplus: bool,
    backend: str,
) -> Grads:
    """-> gradients of u, delta, A, B, C, D, z, delta_bias, state; empty tensors for absent ones."""
    inputs = ScanInputs(
        u, delta, A, B, C, D, z, delta_bias, rows, modality, resets, state, batch, length, softplus
    )
    module = choose("selective_scan", inputs, backend)[1]
    checkpoints = checkpoints.view(module.checkpoint_shape(inputs))
    grads = module.backward(inputs, checkpoints, dy, dfinal)
    return tuple(u.new_empty(0) if g is None else g for g in grads)  # type: ignore[return-value]


@scan_backward.register_fake
def _(
    dy: Tensor,
    dfinal: Tensor | None,
    checkpoints: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    rows: Tensor | None,
    modality: Tensor | None,
    resets: Tensor | None,
    state: Tensor | None,
    batch: int,
    length: int,
    softplus: bool,
    backend: str,
) -> Grads:
    leaves = (u, delta, A, B, C, D, z, delta_bias, state)
    return tuple(u.new_empty(0) if x is None else x.new_empty(x.shape) for x in leaves)  # type: ignore[return-value]


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, batch, length, softplus, backend, _ = inputs
    ctx.save_for_backward(output[2], *tensors)
    ctx.call = batch, length, softplus, backend
    # A final state that nobody differentiates must not arrive as a tensor of zeros.
    ctx.set_materialize_grads(False)


def _backward(ctx, dy, dfinal, _):  # type: ignore[no-untyped-def]
    checkpoints, *tensors = ctx.saved_tensors
    u, state = tensors[0], tensors[11]
    if dy is None:
        dy = torch.zeros_like(u)
    grads = scan_backward(dy, dfinal, checkpoints, *tensors, *ctx.call)
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstate = (
        g if x is not None else None for g, x in zip(grads, (*tensors[:8], state), strict=True)
    )
    return du, ddelta, dA, dB, dC, dD, dz, dbias, None, None, None, dstate, *[None] * 5


scan.register_autograd(_backward, setup_context=_setup_context)
scan_backward.register_autograd(no_second_derivative("selective_scan"))
