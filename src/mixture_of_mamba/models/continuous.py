"""The linear projections of one continuous modality: vectors -> rows, and rows -> predictions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.init import parameter_generator
from .config import FREQUENCIES

__all__ = ["ContinuousProjections"]


class ContinuousProjections(nn.Module):
    """A vector's row is `inward(vector) + condition(silu(hidden(timestep, position)))`.

    Mamba's state would have to count patches to know their positions in an image; giving the
    position as an input is cheaper. All of it is shared by the variants: only the blocks are split.
    """

    def __init__(self, dim: int, d_model: int) -> None:
        super().__init__()
        self.inward = nn.Linear(dim, d_model)
        self.hidden = nn.Linear(2 * FREQUENCIES, d_model)
        self.condition = nn.Linear(d_model, d_model)
        self.outward = nn.Linear(d_model, dim)

    @torch.no_grad()
    def init_weights(self, seed: int | None, name: str) -> None:
        """Uniform in ±1/sqrt(in), the vectors' own projection a fifth of that: noise of unit scale
        must not drown timestep and position. Biases and the output are zero, so that the first
        prediction is 0."""
        scale = {"inward": 0.2, "outward": 0.0}
        for part, linear in self.named_children():
            assert isinstance(linear, nn.Linear)
            bound = scale.get(part, 1.0) * linear.in_features**-0.5
            generator = parameter_generator(seed, f"{name}.{part}", 0, linear.weight)
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()

    def embed(self, values: Tensor, t: Tensor, position: Tensor) -> Tensor:
        """(p, d) vectors, (p,) timesteps, (p,) positions in their segments -> (p, d_model)."""
        # Noise is drawn and mixed in float32; the network computes in its own dtype.
        dtype = self.inward.weight.dtype
        features = [sinusoidal_embedding(t), sinusoidal_embedding(position)]
        condition = self.condition(F.silu(self.hidden(torch.cat(features, dim=-1).to(dtype))))
        return self.inward(values.to(dtype)) + condition

    def predict(self, hidden: Tensor) -> Tensor:
        """(p, d_model) -> (p, d)."""
        return self.outward(hidden)


def sinusoidal_embedding(x: Tensor) -> Tensor:
    """(p,) -> (p, FREQUENCIES) sines and cosines of wavelengths 2 pi … 20,000 pi."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=x.device, dtype=torch.float32)
    rates = torch.exp(steps * (-math.log(10_000) / half))
    angle = x[:, None].float() * rates
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
