"""Portable backend "torch": the formula of the reference, differentiated by autograd on recompute."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .inputs import ConvGrads, ConvInputs
from .reference import causal_conv1d_reference

__all__ = ["backward", "forward", "why_not"]


def why_not(inputs: ConvInputs) -> str | None:
    """Serves every device, dtype and shape."""
    return None


def forward(inputs: ConvInputs) -> tuple[Tensor, Tensor]:
    y, final = causal_conv1d_reference(inputs)
    return y, final.clone()  # a custom op may not return a view of its input


def backward(inputs: ConvInputs, dy: Tensor, dfinal: Tensor | None) -> ConvGrads:
    leaves = {
        name: x.detach().requires_grad_()
        for name in ("x", "weight", "bias", "state")
        if (x := getattr(inputs, name)) is not None
    }
    with torch.enable_grad():
        y, final = causal_conv1d_reference(replace(inputs, **leaves))
        outputs, grads = [y], [dy]
        if dfinal is not None and final.requires_grad:
            outputs, grads = [y, final], [dy, dfinal]
        found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    named = {
        name: torch.zeros_like(leaf) if g is None else g
        for (name, leaf), g in zip(leaves.items(), found, strict=True)
    }
    return ConvGrads(*(named.get(name) for name in ConvGrads._fields))  # type: ignore[arg-type]
