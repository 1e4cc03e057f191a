"""The Mamba-1 mixer: projections split by modality, one shared convolution, A and D."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..ops import Routing, causal_conv1d, selective_scan
from .config import MambaConfig
from .init import expert_generators, parameter_generator
from .linear import ModalityLinear
from .state import MambaState

__all__ = ["MambaMixer"]


class DepthwiseConv(nn.Module):
    """Weights of the causal convolution, named and shaped as in state-spaces checkpoints.

    Shapes: weight (d, 1, k), bias (d,).
    """

    def __init__(self, channels: int, taps: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, taps))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None

    @torch.no_grad()
    def init_weights(self, *, seed: int | None = None, name: str = "") -> None:
        """nn.Conv1d's default: uniform in ±1/sqrt(taps)."""
        bound = self.weight.shape[-1] ** -0.5
        for part, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor is not None:
                generator = parameter_generator(seed, f"{name}.{part}", 0, tensor)
                tensor.uniform_(-bound, bound, generator=generator)

    def forward(
        self, x: Tensor, routing: Routing, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """SiLU(conv(x)): (r, d) rows -> (r, d), final state (b, k-1, d)."""
        return causal_conv1d(x, self.weight[:, 0], self.bias, state=state, routing=routing)


class MambaMixer(nn.Module):
    """The mixer of Mamba-1, on rows in modality order.

        in_proj -+-> x -> conv1d, SiLU -> u -+----------------------------+-> scan -> * -> out_proj
                 |                           +-> x_proj -+-> B, C --------+           |
                 |                                       +-> dt, dt_proj -+           |
                 +-> z -> SiLU -------------------------------------------------------+

    Which projections have one weight per modality is `config.split`; with an empty split this is
    the dense mixer of Mamba-1 (arXiv 2312.00752, section 3.4).
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = c = config
        self.in_proj = ModalityLinear(c.d_model, 2 * c.d_inner, c.experts("in_proj"), bias=c.bias)
        self.conv1d = DepthwiseConv(c.d_inner, c.d_conv, bias=c.conv_bias)
        self.x_proj = ModalityLinear(c.d_inner, c.rank + 2 * c.d_state, c.experts("x_proj"))
        self.dt_proj = ModalityLinear(c.rank, c.d_inner, c.experts("dt_proj"), bias=True)
        self.A_log = nn.Parameter(torch.empty(c.d_inner, c.d_state))
        self.D = nn.Parameter(torch.empty(c.d_inner))
        self.out_proj = ModalityLinear(c.d_inner, c.d_model, c.experts("out_proj"), bias=c.bias)
        self.init_weights()

    @torch.no_grad()
    def init_weights(
        self, *, seed: int | None = None, name: str = "mixer", residual_branches: int = 1
    ) -> None:
        """The initial values of state-spaces/mamba, for every expert its own draw.

        Args:
            seed: of the generators, one per parameter and expert; None uses the global one.
            name: of this mixer in its model, part of each generator's seed.
            residual_branches: out_proj is divided by the square root of this, in every expert.
        """
        c = self.config
        self.in_proj.init_weights(seed=seed, name=f"{name}.in_proj")
        self.conv1d.init_weights(seed=seed, name=f"{name}.conv1d")
        self.x_proj.init_weights(seed=seed, name=f"{name}.x_proj")
        # uniform in ±rank^-0.5 is what ModalityLinear draws for `rank` inputs
        self.dt_proj.init_weights(seed=seed, name=f"{name}.dt_proj")
        assert self.dt_proj.bias is not None
        generators = expert_generators(
            seed, f"{name}.dt_proj.bias", len(self.dt_proj.bias), self.dt_proj.bias
        )
        for bias, generator in zip(self.dt_proj.bias, generators, strict=True):
            low, high = math.log(c.dt_min), math.log(c.dt_max)
            step = torch.empty_like(bias).uniform_(low, high, generator=generator).exp()
            step = step.clamp(min=c.dt_init_floor)
            bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        states = torch.arange(1, c.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        self.A_log.copy_(states.log().expand_as(self.A_log))
        self.D.fill_(1.0)
        self.out_proj.init_weights(
            seed=seed, name=f"{name}.out_proj", scale=residual_branches**-0.5
        )

    def forward(
        self, x: Tensor, routing: Routing, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        """(r, d_model) rows in the routing's order -> the same, and the state after them."""
        c = self.config
        x, z = self.in_proj(x, routing).split(c.d_inner, dim=-1)
        u, conv_state = self.conv1d(x, routing, None if state is None else state.conv)
        dt, B, C = self.x_proj(u, routing).split([c.rank, c.d_state, c.d_state], dim=-1)
        delta, delta_bias = self.dt_proj(dt, routing, bias_apart=True)
        A_log = self.A_log if self.A_log.dtype == torch.float64 else self.A_log.float()
        y, ssm_state = selective_scan(
            u,
            delta,
            -torch.exp(A_log),
            B,
            C,
            self.D,
            z=z,
            delta_bias=delta_bias,  # added in float32 inside the scan
            delta_softplus=True,
            state=None if state is None else state.ssm,
            routing=routing,
        )
        return self.out_proj(y, routing), MambaState(conv_state, ssm_state)
