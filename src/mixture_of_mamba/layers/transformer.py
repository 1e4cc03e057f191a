"""The transformer baselines: attention and MLP with the same idea of split projections.

One weight per modality in every projection is Mixture-of-Transformers (arXiv 2411.04996); none is
the dense transformer. Blocks alternate, so that two of them weigh what two Mamba blocks weigh.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import Routing
from .linear import ModalityLinear

__all__ = ["MLP", "Attention", "TransformerBlock"]


class Attention(nn.Module):
    """Causal self-attention with rotary positions, inside each document.

    Args:
        d_model: width; `d_model / head_dim` heads.
        n_experts: 1, or the number of modalities.
        head_dim: width of a head, even.
    """

    def __init__(self, d_model: int, n_experts: int = 1, *, head_dim: int = 64) -> None:
        super().__init__()
        if d_model % head_dim or head_dim % 2:
            raise ValueError(f"head_dim {head_dim} must be even and divide d_model {d_model}")
        self.head_dim = head_dim
        self.in_proj = ModalityLinear(d_model, 3 * d_model, n_experts)
        self.out_proj = ModalityLinear(d_model, d_model, n_experts)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """(r, d_model) rows in the routing's order -> the same."""
        b, t = routing.batch, routing.length
        qkv = routing.to_time(self.in_proj(x, routing)).view(b, t, 3, -1, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        angles = rotary_angles(t, self.head_dim, x.device)
        q, k = (rotate(part, angles) for part in (q, k))
        mask = None
        if routing.resets is not None:
            document = routing.resets.cumsum(1)
            causal = torch.ones(t, t, dtype=torch.bool, device=x.device).tril()
            mask = ((document[:, :, None] == document[:, None, :]) & causal)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.out_proj(routing.to_rows(y.transpose(1, 2).reshape(b, t, -1)), routing)


class MLP(nn.Module):
    """GELU MLP of four times the width."""

    def __init__(self, d_model: int, n_experts: int = 1) -> None:
        super().__init__()
        self.in_proj = ModalityLinear(d_model, 4 * d_model, n_experts)
        self.out_proj = ModalityLinear(4 * d_model, d_model, n_experts)

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        """(r, d_model) rows in the routing's order -> the same."""
        return self.out_proj(F.gelu(self.in_proj(x, routing)), routing)


class TransformerBlock(nn.Module):
    """y = x + attention(norm(x)), or x + mlp(norm(x)).

    Args:
        d_model: width.
        n_modalities: number of modalities.
        split: one weight per modality in every projection (Mixture-of-Transformers), or shared.
        head_dim: width of an attention head.
        attention: whether this block is attention or MLP.
        eps: of the norm.
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_modalities: int = 1,
        split: bool = False,
        head_dim: int = 64,
        attention: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        experts = n_modalities if split else 1
        self.norm = nn.RMSNorm(d_model, eps=eps)
        self.mixer: Attention | MLP = (
            Attention(d_model, experts, head_dim=head_dim) if attention else MLP(d_model, experts)
        )

    def init_weights(
        self, *, seed: int | None = None, name: str = "block", residual_branches: int = 1
    ) -> None:
        """Uniform draws per expert; out_proj divided by sqrt(residual_branches) in every expert."""
        nn.init.ones_(self.norm.weight)
        self.mixer.in_proj.init_weights(seed=seed, name=f"{name}.mixer.in_proj")
        self.mixer.out_proj.init_weights(
            seed=seed, name=f"{name}.mixer.out_proj", scale=residual_branches**-0.5
        )

    def forward(
        self, x: Tensor, *, routing: Routing, state: None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, None]:
        """(r, d_model) rows in the routing's order -> the same; with return_state, beside None.

        Raises:
            ValueError: a state was given; attention has none of fixed size.
        """
        if state is not None:
            raise ValueError(
                "the transformer baselines carry no state; run them on whole sequences, "
                "or generate with mixer='mamba'"
            )
        y = x + self.mixer(self.norm(x), routing)
        return (y, None) if return_state else y


def rotary_angles(length: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, (t, head_dim / 2), of position * 10000^(-2i / head_dim), arXiv 2104.09864."""
    exponent = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    angle = torch.arange(length, device=device)[:, None] * 10000.0**-exponent
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """(b, heads, t, head_dim), its two halves turned against each other."""
    cos, sin = (a.to(x.dtype) for a in angles)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
