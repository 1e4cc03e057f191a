"""The formula in plain PyTorch: a sum over taps, each reading an earlier input of its document."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ConvInputs

__all__ = ["causal_conv1d_reference"]


def causal_conv1d_reference(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    """y[t] = act(bias + sum_j weight[:, k-1-j] * x[t-j]), x before t = 0 taken from the state.

    Taps that would reach over a document start read zero. Differentiable by plain autograd.

    Returns:
        y (r, d) and the final state (b, k-1, d), in x's dtype.
    """
    (b, t), k = inputs.row_index.shape, inputs.k
    x = inputs.row_index.to_time(inputs.x)
    state = inputs.state
    if state is None:
        state = x.new_zeros(b, k - 1, inputs.d)
    window = torch.cat([state.to(x.dtype), x], 1)
    age = document_age(inputs)
    dtype = torch.promote_types(x.dtype, inputs.weight.dtype)
    y = x.new_zeros(b, t, inputs.d, dtype=dtype)
    for j in range(k):
        tap = window[:, k - 1 - j : k - 1 - j + t].to(dtype)
        y = y + torch.where((age >= j)[..., None], tap, 0.0) * inputs.weight[:, k - 1 - j].to(dtype)
    if inputs.bias is not None:
        y = y + inputs.bias.to(dtype)
    if inputs.silu:
        y = F.silu(y)
    return inputs.row_index.to_rows(y.to(x.dtype)), _final_state(window, age, k)


def document_age(inputs: ConvInputs) -> Tensor:
    """(b, t) int64: how many earlier inputs of its own document a position may see; what the
    incoming state holds counts as k-1 inputs of the first document."""
    (b, t), k, resets = inputs.row_index.shape, inputs.k, inputs.row_index.resets
    position = torch.arange(t, device=inputs.x.device).expand(b, t)
    if resets is None:
        return position + (k - 1)
    start = torch.where(resets, position, -(k - 1)).cummax(1).values if t else position
    return position - start


def _final_state(window: Tensor, age: Tensor, k: int) -> Tensor:
    """The last k-1 inputs, zero where they belong to an earlier document than the last input."""
    tail = window[:, window.shape[1] - (k - 1) :]
    if age.shape[1] == 0 or k == 1:
        return tail
    back = torch.arange(k - 2, -1, -1, device=window.device)
    return torch.where((back <= age[:, -1:])[..., None], tail, 0.0)
