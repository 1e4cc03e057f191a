"""The scan as one node of the graph: custom ops with fake, autograd and the choice of backend."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..dispatch import choose
from ..signature import Signature
from .inputs import ScanGrads, ScanInputs

__all__ = ["scan"]

CALL = Signature(ScanInputs, ScanGrads)


@torch.library.custom_op(
    "mixture_of_mamba::selective_scan",
    mutates_args=(),
    schema=f"({CALL.schema}, str backend, bool save) -> (Tensor, Tensor, Tensor)",
)
def scan(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """-> y (r, d) in u's dtype, final state (b, d, n) in A's dtype, checkpoints of the backward.

    These are flat: as an axis of its own, a count of chunks that may be 1 would be a bound on the
    length of an exported program.
    """
    *call, backend, save = args
    inputs = CALL.bind(call)
    y, final, checkpoints = choose("selective_scan", inputs, backend)[1].forward(inputs, save)
    return y, final, checkpoints.view(-1)


@scan.register_fake
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *call, backend, save = args
    inputs = CALL.bind(call)
    kept = 0
    if save:
        shape = choose("selective_scan", inputs, backend)[1].checkpoint_shape(inputs)
        kept = math.prod(shape)
    u, A = inputs.u, inputs.A
    return u.new_empty(u.shape), A.new_empty(inputs.row_index.batch, *A.shape), A.new_empty(kept)


@torch.library.custom_op(
    "mixture_of_mamba::selective_scan_backward",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor? dfinal, Tensor checkpoints, {CALL.schema}, str backend)"
    f" -> {CALL.gradients}",
)
def scan_backward(
    dy: Tensor, dfinal: Tensor | None, checkpoints: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    """-> ScanGrads; empty tensors for absent ones."""
    *call, backend = args
    inputs = CALL.bind(call)
    module = choose("selective_scan", inputs, backend)[1]
    checkpoints = checkpoints.view(module.checkpoint_shape(inputs))
    return CALL.dense(module.backward(inputs, checkpoints, dy, dfinal), inputs.u)


@scan_backward.register_fake
def _(dy: Tensor, dfinal: Tensor | None, checkpoints: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return CALL.fake(args[:-1], args[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *call, ctx.backend, _ = inputs
    CALL.save(ctx, call, output[2])
    # A final state that nobody differentiates must not arrive as a tensor of zeros.
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Any
) -> tuple[Tensor | None, ...]:
    (checkpoints,), call = CALL.saved(ctx)
    if dy is None:
        dy = torch.zeros_like(call[0])
    grads = scan_backward(dy, dfinal, checkpoints, *call, ctx.backend)
    return *CALL.by_argument(grads, call), None, None


scan.register_autograd(_backward, setup_context=_setup_context)
scan_backward.register_autograd(no_second_derivative("selective_scan"))
