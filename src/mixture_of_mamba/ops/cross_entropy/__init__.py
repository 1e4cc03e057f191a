"""Cross entropy of a linear head, without ever holding all of many (rows, vocabulary) logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import dispatch
from ..derivatives import formula_needed
from . import cpu
from .kept import kept_head_loss
from .op import head_loss
from .reference import linear_cross_entropy_reference

__all__ = ["linear_cross_entropy", "linear_cross_entropy_reference", "why_not"]

# float32 logits held at a time. On a GPU a slice must be tall enough to fill the tensor cores; on a
# CPU it should stay near the last-level cache.
_SLICE_BYTES = {"cuda": 1 << 30, "cpu": 1 << 25}
#: Up to so many logits (64 MiB in float32) the CPU's kernel keeps their gradient for the backward,
#: which saves a matrix product.
_KEPT = 1 << 24
_OPS = torch.ops.mixture_of_mamba


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
    ignore_index: int = -100,
    slice_rows: int | None = None,
) -> Tensor:
    """Per-row cross entropy of ``softmax(hidden @ weight.T)``, without all logits in memory.

        loss[r] = log(sum_v exp(x[r, v])) - x[r, targets[r]],    v in [low[r], high[r])

    The logits `x` are computed slice by slice and again in the backward: peak memory is one slice
    instead of (r, V), at the price of one more matrix product. On the CPU, where one slice holds
    all rows (by default up to 64 MiB of float32 logits), it becomes the gradient in the logits
    already in the forward and is kept: nothing is computed twice. With ranges, each row's softmax
    is over its own part of a joint vocabulary (one part per modality). On the CPU a slice of rows
    multiplies only the part of `weight` that its ranges touch, so rows sorted by modality pay for
    their own vocabulary alone; on a GPU, where reading the ranges would need a synchronisation, the
    product is over the whole vocabulary and masked.

    Args:
        hidden: (r, d) floating.
        weight: (V, d) in hidden's dtype; under autocast both are cast to the autocast dtype.
        targets: (r,) int64 in [0, V) (in [low, high) with ranges); `ignore_index` gives loss 0 and
            no gradient.
        low, high: (r,) int64, both or neither.
        slice_rows: rows whose logits are held at a time; by default as many as 1 GiB (CUDA) or
            32 MiB (CPU) of float32 logits hold.

    Returns:
        (r,) losses, float32 (float64 for float64 inputs); first gradients in hidden and weight.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit together; on the CPU also
            targets outside their range (on a GPU checking would synchronise; there such a row's
            loss is +inf).
    """
    _check(hidden, weight, targets, low, high)
    device = hidden.device.type
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if hidden.dtype != weight.dtype:
        raise TypeError(f"hidden is {hidden.dtype}, but weight is {weight.dtype}; use one dtype")
    rows, vocabulary = hidden.shape[0], weight.shape[0]
    few = rows * vocabulary <= _KEPT if slice_rows is None else rows <= slice_rows
    if slice_rows is None:
        slice_rows = max(64, _SLICE_BYTES.get(device, 1 << 28) // (4 * max(vocabulary, 1)))
    elif slice_rows < 1:
        raise ValueError(f"slice_rows is {slice_rows}; at least 1 is needed")
    if formula_needed(hidden, weight):
        return linear_cross_entropy_reference(
            hidden, weight, targets, low=low, high=high, ignore_index=ignore_index
        )
    differentiated = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    keep = few and differentiated and cpu.why_not(device, hidden.dtype) is None
    op = kept_head_loss if keep else head_loss
    return op(hidden, weight, targets, low, high, ignore_index, slice_rows)[0]


def why_not(hidden: Tensor) -> str | None:
    """None where the CPU's kernel serves these rows in `linear_cross_entropy`, else the reason."""
    device, dtype = hidden.device.type, hidden.dtype
    if "reference" in dispatch.preferences().values():
        return "formulas are chosen by name"  # of the other ops: for second derivatives
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return cpu.why_not(device, dtype)


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, low: Tensor | None, high: Tensor | None
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden has shape {tuple(hidden.shape)} and weight {tuple(weight.shape)}; "
            "(rows, d) and (vocabulary, d) are needed"
        )
    if not hidden.is_floating_point() or not weight.is_floating_point():
        raise TypeError(f"hidden is {hidden.dtype} and weight {weight.dtype}; floats are needed")
    if (low is None) != (high is None):
        raise ValueError(
            f"{'low' if low is None else 'high'} is missing; give both ends or neither"
        )
    for name, x in (("targets", targets), ("low", low), ("high", high)):
        if x is None:
            continue
        if x.shape != hidden.shape[:1]:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}; ({hidden.shape[0]},) is needed for this hidden"
            )
        if x.dtype != torch.int64:
            raise TypeError(f"{name} is {x.dtype}; int64 is needed")
        if x.device != hidden.device:
            raise ValueError(f"{name} is on {x.device}, but hidden is on {hidden.device}")


@register_flop_formula([_OPS.linear_cross_entropy, _OPS.kept_linear_cross_entropy])
def _forward_flops(hidden, weight, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return 2 * hidden[0] * weight[0] * weight[1]


@register_flop_formula(_OPS.linear_cross_entropy_backward)
def _backward_flops(dloss, total, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return 2 * _forward_flops(*args)  # two products; the recomputed logits are not useful work


@register_flop_formula(_OPS.kept_linear_cross_entropy_backward)
def _kept_backward_flops(dloss, slopes, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    *call, need_hidden, need_weight = args
    return (need_hidden + need_weight) * _forward_flops(*call)  # type: ignore[no-any-return]
