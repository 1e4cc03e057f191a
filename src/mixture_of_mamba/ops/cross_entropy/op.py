"""The sliced head loss as one node of the graph: custom ops with fake and autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..signature import Signature
from . import cpu
from .inputs import HeadGrads, HeadInputs
from .slices import Product, check_targets, products, products_in_place

__all__ = ["CALL", "gradients", "head_loss", "native_dlogits"]

CALL = Signature(HeadInputs, HeadGrads)


@torch.library.custom_op(
    "mixture_of_mamba::linear_cross_entropy",
    mutates_args=(),
    schema=f"({CALL.schema}) -> (Tensor, Tensor)",
)
def head_loss(*args: Any) -> tuple[Tensor, Tensor]:
    """-> losses (r,) and the logarithm of each row's softmax denominator (r,), float32 or wider."""
    inputs = CALL.bind(args)
    hidden, targets = inputs.hidden, inputs.targets
    if hidden.device.type == "cpu":
        check_targets(inputs)
    losses = hidden.new_empty(hidden.shape[:1], dtype=_wide(hidden))
    total = torch.empty_like(losses)
    if cpu.why_not(hidden.device.type, hidden.dtype) is None:
        for product in products_in_place(inputs, cpu.cached_rows(inputs)):
            rows = product.rows
            cpu.softmax(inputs, product, losses=losses[rows], totals=total[rows])
        return losses, total
    for part in _slices(inputs):
        kept = targets[part.rows] != inputs.ignore_index
        denominator = torch.logsumexp(part.logits, 1)
        # As a softmax has it: with an infinite logit there are no probabilities.
        total[part.rows] = denominator.masked_fill(denominator == torch.inf, torch.nan)
        at_target = part.logits.gather(1, part.targets[:, None])[:, 0]
        beyond = targets[part.rows] != part.targets + part.words.start
        at_target = at_target.masked_fill(beyond, -torch.inf)  # impossible, and not its neighbour
        losses[part.rows] = torch.where(kept, total[part.rows] - at_target, 0.0)
    return losses, total


@head_loss.register_fake
def _(hidden: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    losses = hidden.new_empty(hidden.shape[:1], dtype=_wide(hidden))
    return losses, torch.empty_like(losses)


@torch.library.custom_op(
    "mixture_of_mamba::linear_cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor dloss, Tensor total, {CALL.schema}) -> {CALL.gradients}",
)
def head_loss_backward(dloss: Tensor, total: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """-> HeadGrads, accumulated in float32 or wider."""
    inputs = CALL.bind(args)
    if cpu.why_not(inputs.hidden.device.type, inputs.hidden.dtype) is None:
        return tuple(gradients(inputs, native_dlogits(inputs, dloss)))
    return tuple(gradients(inputs, _dlogits(inputs, dloss, total)))


@head_loss_backward.register_fake
def _(dloss: Tensor, total: Tensor, hidden: Tensor, weight: Tensor, *args: Any) -> Any:
    return torch.empty_like(hidden), weight.new_empty(weight.shape)


def gradients(inputs: HeadInputs, dlogits: Iterator[Product]) -> HeadGrads:
    """The gradients from those of the logits, a slice of rows at a time."""
    hidden, weight = inputs.hidden, inputs.weight
    dhidden = torch.empty_like(hidden)
    dweight = torch.zeros(weight.shape, dtype=_wide(weight), device=weight.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for rows, words, values in dlogits:
            dhidden[rows] = values @ weight[words]
            dweight[words] += values.T @ hidden[rows]
    return HeadGrads(dhidden, dweight.to(weight.dtype))


def native_dlogits(inputs: HeadInputs, dloss: Tensor) -> Iterator[Product]:
    """Gradients of the logits, which are computed again, by the kernel."""
    for product in products_in_place(inputs, inputs.slice_rows):
        share = dloss[product.rows].float().contiguous()
        cpu.softmax(inputs, product, gradient=True, share=share)
        yield product


def _dlogits(inputs: HeadInputs, dloss: Tensor, total: Tensor) -> Iterator[Product]:
    """The same in torch's operations."""
    for part in _slices(inputs):
        rows = part.rows
        kept = inputs.targets[rows] != inputs.ignore_index
        share = torch.where(kept, dloss[rows], 0.0)[:, None].to(total.dtype)
        dlogits = part.logits.sub_(total[rows, None]).exp_()
        # A row without a vocabulary (ignored, empty range) has total -inf: no probabilities.
        dlogits.masked_fill_(~kept[:, None], 0.0).mul_(share)
        if part.outside is not None:  # NaN of a row stays in the row's own vocabulary
            dlogits.masked_fill_(part.outside, 0.0)
        dlogits.scatter_add_(1, part.targets[:, None], -share)
        yield Product(rows, part.words, dlogits.to(inputs.hidden.dtype))


class _Slice(NamedTuple):
    rows: slice
    words: slice
    logits: Tensor  # (rows, words) wide, -inf outside each row's range; may be overwritten
    targets: Tensor  # (rows,) index into words; 0 where the row is ignored
    outside: Tensor | None  # (rows, words) bool


def _slices(inputs: HeadInputs) -> Iterator[_Slice]:
    """The products with what torch's operations need beside them."""
    low, high = inputs.low, inputs.high
    for rows, words, product in products(inputs):
        logits = product.to(_wide(product))
        outside = None
        if low is not None and high is not None:
            v = torch.arange(words.start, words.stop, device=logits.device)
            outside = (v < low[rows, None]) | (v >= high[rows, None])
            logits.masked_fill_(outside, -torch.inf)
        index = inputs.targets[rows] - words.start
        yield _Slice(rows, words, logits, index.clamp(0, words.stop - words.start - 1), outside)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    CALL.save(ctx, inputs, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dloss: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    (total,), call = CALL.saved(ctx)
    if dloss is None:
        return (None,) * len(call)
    return tuple(CALL.by_argument(head_loss_backward(dloss, total, *call), call))


head_loss.register_autograd(_backward, setup_context=_setup_context)
head_loss_backward.register_autograd(
    no_second_derivative("linear_cross_entropy", "use linear_cross_entropy_reference")
)
