"""Portable backend "torch": the modality of a step is known, so no routing is built.

Each projection is a plain matrix product with the slice of its expert; convolution and scan of a
single step are a weighted sum and one update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mamba_block import Weights
from .inputs import StepInputs

__all__ = ["new_states", "prepare", "step", "why_not"]

#: (modality, sequences that have it); the sequences are None where all have it.
Groups = Sequence[tuple[int, Tensor | None]]


class Block(NamedTuple):
    """Weights of a block; the convolution, A = -exp(A_log), D and dt's bias in A's dtype.

    Attributes:
        w: the projections and the norm.
        taps: (k, d), oldest first.
        conv_bias: (d,), or None.
        dt_bias: (m, d).
        A, D: (d, n) and (d,).
    """

    w: Weights
    taps: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    A: Tensor
    D: Tensor


class Prepared(NamedTuple):
    """What a step reads."""

    inputs: StepInputs
    blocks: list[Block]
    modalities: int

    @property
    def weight_bytes(self) -> int:
        head = self.inputs.head
        return sum(p.nbytes for p in self.inputs.projections) + (0 if head is None else head.nbytes)


def why_not(inputs: StepInputs) -> str | None:
    """Serves every device and dtype; it does not convert weights."""
    if inputs.format not in (None, inputs.dtype_name):
        return f"it takes the weights as they are, in {inputs.dtype_name}, not in {inputs.format}"
    return None


@torch.no_grad()
def prepare(inputs: StepInputs) -> Prepared:
    """Convert what a step needs in another dtype; the rest is borrowed."""
    return Prepared(inputs, [_prepared(w) for w in inputs.blocks], inputs.modalities)


def _prepared(w: Weights) -> Block:
    wide = torch.float64 if w.A_log.dtype == torch.float64 else torch.float32
    return Block(
        w=w,
        taps=w.conv_weight.t().to(wide).contiguous(),
        conv_bias=None if w.conv_bias is None else w.conv_bias.to(wide),
        dt_bias=w.dt_bias.to(wide),
        A=-torch.exp(w.A_log.to(wide)),
        D=w.D.to(wide),
    )


def new_states(prepared: Prepared, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Zero states: conv in the dtype of the activations, ssm in A's."""
    return [
        (
            block.w.in_weight.new_zeros(batch, block.taps.shape[0] - 1, block.taps.shape[1]),
            block.A.new_zeros(batch, *block.A.shape),
        )
        for block in prepared.blocks
    ]


def step(
    prepared: Prepared, x: Tensor, modality: Tensor, states: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    _, eps, final_norm, head, _ = prepared.inputs
    groups = _groups(modality, prepared.modalities, x.device)
    for block, (conv, ssm) in zip(prepared.blocks, states, strict=True):
        x = _block(block, eps, x, conv, ssm, groups)
    if final_norm is not None:
        x = F.rms_norm(x, (x.shape[-1],), final_norm, eps)
    return x if head is None else F.linear(x, head)


def _block(
    block: Block, eps: float, x: Tensor, conv: Tensor, ssm: Tensor, groups: Groups
) -> Tensor:
    """(b, d_model) -> the same; the states are updated in place."""
    w, (d, n), wide = block.w, block.A.shape, block.A.dtype
    h = F.rms_norm(x, (x.shape[-1],), w.norm, eps)
    x_in, z = _linear(h, w.in_weight, w.in_bias, groups).split(d, -1)
    window = torch.cat([conv, x_in[:, None]], 1)
    conv.copy_(window[:, 1:])
    u = (window.to(wide) * block.taps).sum(1)
    u = F.silu(u if block.conv_bias is None else u + block.conv_bias)
    dt_B_C = _linear(u.to(x.dtype), w.x_weight, None, groups)
    dt, B, C = dt_B_C.split([w.dt_weight.shape[-1], n, n], -1)
    delta = _linear(dt, w.dt_weight, None, groups).to(wide)
    delta = F.softplus(_add(delta, block.dt_bias, groups))
    ssm.mul_((delta[..., None] * block.A).exp_())
    ssm.baddbmm_((delta * u)[..., None], B.to(wide)[:, None])
    y = torch.bmm(ssm, C.to(wide)[..., None])[..., 0]
    y = (y + block.D * u) * F.silu(z.to(wide))
    return x + _linear(y.to(x.dtype), w.out_weight, w.out_bias, groups)


def _groups(modality: Tensor, modalities: int, device: torch.device) -> Groups:
    present = modality.unique().tolist()
    if modalities > 1 and present and not 0 <= present[0] <= present[-1] < modalities:
        raise ValueError(f"modality must be in 0..{modalities - 1}, got {modality.tolist()}")
    if len(present) == 1:
        return [(present[0], None)]
    return [(m, (modality == m).nonzero()[:, 0].to(device)) for m in present]


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
