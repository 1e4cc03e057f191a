"""The sliced head loss as one node of the graph: custom ops with fake and autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..derivatives import no_second_derivative
from ..signature import Signature
from .inputs import HeadGrads, HeadInputs

__all__ = ["head_loss"]

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
        _check_targets(inputs)
    losses = hidden.new_empty(hidden.shape[:1], dtype=_wide(hidden))
    total = torch.empty_like(losses)
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
    hidden, weight = inputs.hidden, inputs.weight
    dhidden = torch.empty_like(hidden)
    dweight = torch.zeros(weight.shape, dtype=_wide(weight), device=weight.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for part in _slices(inputs):
            rows, words = part.rows, part.words
            kept = inputs.targets[rows] != inputs.ignore_index
            share = torch.where(kept, dloss[rows], 0.0)[:, None].to(total.dtype)
            dlogits = part.logits.sub_(total[rows, None]).exp_()
            # A row without a vocabulary (ignored, empty range) has total -inf: no probabilities.
            dlogits.masked_fill_(~kept[:, None], 0.0).mul_(share)
            if part.outside is not None:  # NaN of a row stays in the row's own vocabulary
                dlogits.masked_fill_(part.outside, 0.0)
            dlogits.scatter_add_(1, part.targets[:, None], -share)
            dlogits = dlogits.to(hidden.dtype)
            dhidden[rows] = dlogits @ weight[words]
            dweight[words] += dlogits.T @ hidden[rows]
    return dhidden, dweight.to(weight.dtype)


@head_loss_backward.register_fake
def _(dloss: Tensor, total: Tensor, hidden: Tensor, weight: Tensor, *args: Any) -> Any:
    return torch.empty_like(hidden), weight.new_empty(weight.shape)


class _Slice(NamedTuple):
    rows: slice
    words: slice
    logits: Tensor  # (rows, words) wide, -inf outside each row's range; may be overwritten
    targets: Tensor  # (rows,) index into words; 0 where the row is ignored
    outside: Tensor | None  # (rows, words) bool


def _slices(inputs: HeadInputs) -> Iterator[_Slice]:
    """Logits a slice of rows at a time, over the words that the slice's ranges touch."""
    hidden, weight, targets, low, high, _, slice_rows = inputs
    for start in range(0, hidden.shape[0], slice_rows):
        rows = slice(start, min(start + slice_rows, hidden.shape[0]))
        words = slice(0, weight.shape[0])
        if low is not None and high is not None and low.device.type == "cpu":
            first = min(int(low[rows].min()), weight.shape[0] - 1)
            words = slice(first, max(int(high[rows].max()), first + 1))
        logits = (hidden[rows] @ weight[words].T).to(_wide(hidden))
        outside = None
        if low is not None and high is not None:
            v = torch.arange(words.start, words.stop, device=hidden.device)
            outside = (v < low[rows, None]) | (v >= high[rows, None])
            logits.masked_fill_(outside, -torch.inf)
        index = targets[rows] - words.start
        yield _Slice(rows, words, logits, index.clamp(0, words.stop - words.start - 1), outside)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check_targets(inputs: HeadInputs) -> None:
    _, weight, targets, low, high, ignore_index, _ = inputs
    vocabulary = weight.shape[0]
    first = torch.zeros_like(targets) if low is None else low
    end = torch.full_like(targets, vocabulary) if high is None else high
    if bool(((first < 0) | (end > vocabulary)).any()):
        raise ValueError(f"low and high must lie in 0..{vocabulary}, the rows of weight")
    wrong = ((targets < first) | (targets >= end)) & (targets != ignore_index)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"targets[{row}] is {int(targets[row])}, but row {row} has words "
            f"{int(first[row])}..{int(end[row]) - 1}; mark rows without a target by {ignore_index}"
        )


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
