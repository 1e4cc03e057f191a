"""One token of every sequence through all blocks, without building a routing.

The modality of a step is known before it runs, so each projection is a plain matrix product with
the slice of its expert. Convolution and scan of a single step are a weighted sum and one update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import MambaBlock, MambaState
from ..layers.fused import plain_weights
from ..layers.plain import as_built
from ..models import ModelState, MultimodalModel
from ..models.backbone import Backbone
from ..models.vocabulary import DiscreteHead
from .decoders import CachedDecoder
from .ownership import continues

__all__ = ["SteppingDecoder", "why_not_stepping"]

Groups = Sequence[tuple[int, Tensor | None]]
"""(modality, rows that have it); rows None where all have it."""

_as_built = as_built(Backbone, MambaBlock, nn.RMSNorm, DiscreteHead)


def why_not_stepping(model: MultimodalModel) -> str | None:
    """None where `SteppingDecoder` can serve the model, else the reason.

    It reads the weights past their modules, so whatever hangs on one of these (an adapter, a hook,
    a wrapper for sharding or offloading) must run by itself.
    """
    if model.config.mixer != "mamba":
        return "the model has attention blocks"
    backbone = model.backbone
    for name, part in (("backbone", backbone), ("norm", backbone.norm), ("head", model.head)):
        if not _as_built(part):
            return f"the {name} was wrapped, hooked or replaced"
    for weight in (backbone.norm.weight, model.head.weight):
        if type(weight) not in (Tensor, nn.Parameter):
            return f"the norm or the head has a {type(weight).__name__} for its weight"
    for i, block in enumerate(backbone.blocks):
        if not _as_built(block):
            return f"block {i} was wrapped, hooked or replaced"
        if plain_weights(cast(MambaBlock, block)) is None:
            return f"a part of block {i} was wrapped, hooked or replaced"
    return None


@dataclass(frozen=True)
class _Layer:
    """Weights of one block as a step needs them; A is the decay rate, (d, n) float32."""

    norm: Tensor
    eps: float
    in_weight: Tensor
    in_bias: Tensor | None
    taps: Tensor
    conv_bias: Tensor | None
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_weight: Tensor
    out_bias: Tensor | None

    @classmethod
    def of(cls, block: MambaBlock) -> _Layer:
        mixer = block.mixer
        wide = torch.float64 if mixer.A_log.dtype == torch.float64 else torch.float32
        conv_bias = mixer.conv1d.bias
        return cls(
            norm=block.norm.weight,
            eps=cast(float, block.norm.eps),
            in_weight=mixer.in_proj.weight,
            in_bias=mixer.in_proj.bias,
            taps=mixer.conv1d.weight[:, 0].t().to(wide).contiguous(),
            conv_bias=None if conv_bias is None else conv_bias.to(wide),
            x_weight=mixer.x_proj.weight,
            dt_weight=mixer.dt_proj.weight,
            dt_bias=cast(Tensor, mixer.dt_proj.bias).to(wide),
            A=-torch.exp(mixer.A_log.to(wide)),
            D=mixer.D.to(wide),
            out_weight=mixer.out_proj.weight,
            out_bias=mixer.out_proj.bias,
        )

    def step(self, x: Tensor, state: MambaState, groups: Groups) -> tuple[Tensor, MambaState]:
        """(b, d_model) -> the same, and the state after this token."""
        d, n = self.A.shape
        wide = self.A.dtype
        h = F.rms_norm(x, (x.shape[-1],), self.norm, self.eps)
        x_in, z = _linear(h, self.in_weight, self.in_bias, groups).split(d, -1)
        window = torch.cat([state.conv, x_in[:, None]], 1)
        u = (window.to(wide) * self.taps).sum(1)
        u = F.silu(u if self.conv_bias is None else u + self.conv_bias)
        rank = self.dt_weight.shape[-1]
        maps = _linear(u.to(x.dtype), self.x_weight, None, groups)
        low, B, C = maps.split([rank, n, n], -1)
        delta = _linear(low, self.dt_weight, None, groups).to(wide)
        delta = F.softplus(_add(delta, self.dt_bias, groups))
        # the old state is somebody's snapshot; the new one is made in its own memory, in place
        ssm = (delta[..., None] * self.A).exp_().mul_(state.ssm)
        ssm.baddbmm_((delta * u)[..., None], B.to(wide)[:, None])
        y = torch.bmm(ssm, C.to(wide)[..., None])[..., 0]
        y = (y + self.D * u) * F.silu(z.to(wide))
        out = _linear(y.to(x.dtype), self.out_weight, self.out_bias, groups)
        return x + out, MambaState(window[:, 1:], ssm)


class SteppingDecoder(CachedDecoder):
    """Prompts go through the model; single steps take the short way described above."""

    def __init__(self, model: MultimodalModel) -> None:
        if reason := why_not_stepping(model):
            raise ValueError(f"this model cannot be stepped directly: {reason}; use CachedDecoder")
        super().__init__(model)
        with torch.no_grad():
            self._layers = [_Layer.of(cast(MambaBlock, b)) for b in model.backbone.blocks]
        self._low = [low for low, _ in model.config.vocabulary_ranges]

    @continues
    @torch.no_grad()
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        groups = _groups(modality_ids, self._device)
        low = torch.tensor([self._low[m] for m in modality_ids.tolist()])
        x = self.model.embedding((tokens + low).to(self._device))
        before, blocks = self._present, []
        for layer, state in zip(self._layers, before, strict=True):
            x, after = layer.step(x, state, groups)
            blocks.append(after)
        norm = self.model.backbone.norm
        x = F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)
        self._store(ModelState(before.config, tuple(blocks), before.position + 1, before.document))
        return self.model.head(x)


def _groups(modality_ids: Tensor, device: torch.device) -> Groups:
    present = modality_ids.unique().tolist()
    if len(present) == 1:
        return [(present[0], None)]
    return [(m, (modality_ids == m).nonzero()[:, 0].to(device)) for m in present]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, groups: Groups) -> Tensor:
    """(b, in) -> (b, out), each row by the expert of its modality."""
    if weight.shape[0] == 1 or len(groups) == 1:
        m = 0 if weight.shape[0] == 1 else groups[0][0]
        return F.linear(x, weight[m], None if bias is None else bias[m])
    y = x.new_empty(x.shape[0], weight.shape[1])
    for m, rows in groups:
        y[rows] = F.linear(x[rows], weight[m], None if bias is None else bias[m])
    return y


def _add(x: Tensor, bias: Tensor, groups: Groups) -> Tensor:
    """(b, d) plus the (m, d) bias of each row's modality."""
    if bias.shape[0] == 1 or len(groups) == 1:
        return x + bias[0 if bias.shape[0] == 1 else groups[0][0]]
    y = torch.empty_like(x)
    for m, rows in groups:
        y[rows] = x[rows] + bias[m]
    return y
