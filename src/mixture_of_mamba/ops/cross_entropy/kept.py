"""The head loss that keeps the gradient of its logits: on the CPU, where they fit into memory.

The forward overwrites the logits by the gradients of each row's loss in them, softmax - target. The
backward owes them only a factor a row, and gives it to the rows of the two products instead: it
neither computes the logits again nor walks over what is as large as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..modality_linear.loop import weight_gradient
from . import cpu
from .inputs import HeadInputs
from .op import CALL, gradients, native_dlogits
from .slices import Product, check_targets, touched

__all__ = ["kept_head_loss"]

#: Rows with their factors up to here. Beyond, and for infinite and NaN ones, the order of products
#: decides what overflows and what is zero times infinity; there it is the formula's.
LARGEST = 1e18
#: Widths up to which the weight's gradient is computed transposed, see `weight_gradient`. In
#: float32 that was 1.4 to 1.9 times as fast with 1,795 words, 0.85 with 2,051, 1.1 with 4,096.
THIN = {torch.float32: 128, torch.bfloat16: 64}


@torch.library.custom_op(
    "mixture_of_mamba::kept_linear_cross_entropy",
    mutates_args=(),
    schema=f"({CALL.schema}) -> (Tensor, Tensor)",
)
def kept_head_loss(*args: Any) -> tuple[Tensor, Tensor]:
    """-> losses (r,) float32, and `slopes` (r * V,), which begin with (r, words) gradients."""
    inputs = CALL.bind(args)
    check_targets(inputs)
    hidden, weight = inputs.hidden, inputs.weight
    losses = torch.empty(hidden.shape[0], dtype=torch.float32)
    slopes = hidden.new_empty(hidden.shape[0] * weight.shape[0])
    whole = _whole(inputs, slopes)
    torch.mm(hidden, weight[whole.words].T, out=whole.logits)
    cpu.softmax(inputs, whole, gradient=True, losses=losses)
    return losses, slopes


@kept_head_loss.register_fake
def _(hidden: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    losses = hidden.new_empty(hidden.shape[:1], dtype=torch.float32)
    return losses, hidden.new_empty(hidden.shape[0] * weight.shape[0])


@torch.library.custom_op(
    "mixture_of_mamba::kept_linear_cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor dloss, Tensor slopes, {CALL.schema}, bool need_hidden, bool need_weight)"
    f" -> {CALL.gradients}",
)
def kept_head_loss_backward(dloss: Tensor, slopes: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """-> HeadGrads; empty tensors where not needed."""
    *call, need_hidden, need_weight = args
    inputs = CALL.bind(call)
    hidden, weight = inputs.hidden, inputs.weight
    share = torch.where(inputs.targets != inputs.ignore_index, dloss, 0.0)[:, None]
    scaled = (hidden * share).to(hidden.dtype)
    dhidden, dweight = hidden.new_empty(0), weight.new_empty(0)
    if not bool((scaled.abs() <= LARGEST).all()):
        found = gradients(inputs, native_dlogits(inputs, dloss))
        return found.hidden if need_hidden else dhidden, found.weight if need_weight else dweight
    _, words, values = _whole(inputs, slopes)
    with torch.autocast("cpu", enabled=False):
        if need_hidden:
            dhidden = torch.mm(values, weight[words]).mul_(share)
        if need_weight:
            dweight = weight.new_zeros(weight.shape)
            weight_gradient(values, scaled, dweight[words], thin=THIN[weight.dtype])
    return dhidden, dweight


@kept_head_loss_backward.register_fake
def _(dloss: Tensor, slopes: Tensor, hidden: Tensor, weight: Tensor, *args: Any) -> Any:
    *_, need_hidden, need_weight = args
    needs = ((hidden, need_hidden), (weight, need_weight))
    return tuple(x.new_empty(x.shape if need else 0) for x, need in needs)


def _whole(inputs: HeadInputs, slopes: Tensor) -> Product:
    """All rows and the words that they touch; how many these are, shapes cannot say."""
    rows = slice(0, inputs.hidden.shape[0])
    words = touched(inputs, rows)
    count = rows.stop * (words.stop - words.start)
    return Product(rows, words, slopes[:count].view(rows.stop, words.stop - words.start))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    CALL.save(ctx, inputs, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dloss: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    (slopes,), call = CALL.saved(ctx)
    if dloss is None:
        return (None,) * len(call)
    needs = ctx.needs_input_grad[:2]
    grads = kept_head_loss_backward(dloss, slopes, *call, *needs)
    dhidden, dweight = (g if need else None for g, need in zip(grads, needs, strict=True))
    return (dhidden, dweight, *[None] * (len(call) - 2))


kept_head_loss.register_autograd(_backward, setup_context=_setup_context)
kept_head_loss_backward.register_autograd(
    no_second_derivative("linear_cross_entropy", "use linear_cross_entropy_reference")
)
