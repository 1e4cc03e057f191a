"""A linear layer with one weight per modality, stacked in one parameter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import Routing, modality_linear
from .init import expert_generators

__all__ = ["ModalityLinear"]


class ModalityLinear(nn.Module):
    """y[i] = weight[e] @ x[i] + bias[e], where e is the modality of row i.

    Args:
        in_features, out_features: widths.
        n_experts: 1 (an ordinary linear layer) or the number of modalities.
        bias: whether to add one bias per expert.

    Shapes: weight (m, out, in), bias (m, out).
    """

    def __init__(
        self, in_features: int, out_features: int, n_experts: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(n_experts, out_features)) if bias else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self, *, seed: int | None = None, name: str = "", scale: float = 1.0) -> None:
        """Uniform in ±1/sqrt(in), as nn.Linear draws, times `scale`; biases zero.

        With a seed, each expert draws from its own generator (seed, name, expert).
        """
        bound = scale * self.weight.shape[-1] ** -0.5
        for expert, generator in zip(
            self.weight, expert_generators(seed, name, len(self.weight), self.weight), strict=True
        ):
            expert.uniform_(-bound, bound, generator=generator)
        if self.bias is not None:
            self.bias.zero_()

    def forward(
        self, x: Tensor, routing: Routing | None = None, *, bias_apart: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | None]:
        """(r, in) rows in the routing's order -> (r, out).

        With `bias_apart`, the product and a copy of the bias, for a caller who adds it elsewhere
        (the scan, in float32). Parameters leave a module through its call only: before and after
        it they may be on another device, or divided.
        """
        if not bias_apart:
            return modality_linear(x, self.weight, self.bias, routing=routing)
        y = modality_linear(x, self.weight, None, routing=routing)
        return y, None if self.bias is None else self.bias.clone()

    def extra_repr(self) -> str:
        m, out, width = self.weight.shape
        return f"in_features={width}, out_features={out}, n_experts={m}"
