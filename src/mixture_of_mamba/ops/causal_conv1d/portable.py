"""Portable backend "torch": a sum over taps, with its gradients written out."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import ConvGrads, ConvInputs
from .reference import causal_conv1d_reference, document_age

__all__ = ["backward", "forward", "why_not"]


def why_not(inputs: ConvInputs) -> str | None:
    """Serves every device, dtype and shape."""
    return None


def forward(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    y, final = causal_conv1d_reference(inputs)
    return y, final.clone()  # a custom op may not return a view of its input


def backward(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None) -> ConvGrads:
    """Gradients of every input; those of the final state are added to the inputs it holds."""
    (b, t), k, d = inputs.row_index.shape, inputs.k, inputs.d
    dtype = torch.promote_types(inputs.x.dtype, inputs.weight.dtype)
    x = inputs.row_index.to_time(inputs.x)
    state = x.new_zeros(b, k - 1, d) if inputs.state is None else inputs.state
    window = torch.cat([state.to(x.dtype), x], 1).to(dtype)
    age = document_age(inputs)
    grad = inputs.row_index.to_time(dy).to(dtype)
    weight = inputs.weight.to(dtype)
    # tap j of position t reads window[t + k - 1 - j], if that lies in t's document
    taps = [
        torch.where((age >= j)[..., None], window[:, k - 1 - j : k - 1 - j + t], 0.0)
        for j in range(k)
    ]
    if inputs.silu:
        before = torch.stack([tap * weight[:, k - 1 - j] for j, tap in enumerate(taps)]).sum(0)
        if inputs.bias is not None:
            before = before + inputs.bias.to(dtype)
        gate = torch.sigmoid(before)
        grad = grad * gate * (1 + before * (1 - gate))
    dwindow = torch.zeros_like(window)
    dweight = torch.zeros_like(weight)
    for j, tap in enumerate(taps):
        seen = torch.where((age >= j)[..., None], grad, 0.0)
        dwindow[:, k - 1 - j : k - 1 - j + t] += seen * weight[:, k - 1 - j]
        dweight[:, k - 1 - j] = (grad * tap).sum((0, 1))
    if dfinal is not None and k > 1:
        tail = dfinal.to(dtype)
        if t:
            back = torch.arange(k - 2, -1, -1, device=x.device)
            tail = torch.where((back <= age[:, -1:])[..., None], tail, 0.0)
        dwindow[:, t:] += tail
    return ConvGrads(
        x=inputs.row_index.to_rows(dwindow[:, k - 1 :].to(inputs.x.dtype)),
        weight=dweight.to(inputs.weight.dtype),
        bias=None if inputs.bias is None else grad.sum((0, 1)).to(inputs.bias.dtype),
        state=None if inputs.state is None else dwindow[:, : k - 1].to(inputs.state.dtype).clone(),
    )
