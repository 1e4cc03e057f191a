"""What is trained: every variant of a scale has the same width, depth, vocabulary and batch.

Dense and transformer have one modality (no routing at all); "masks" is the mixture as boolean masks
compute it, in time order; "mamba-ssm" is a stack of its dense mixers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixture_of_mamba.batch import Batch
from mixture_of_mamba.layers import PROJECTIONS
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.models.presets import PRESETS
from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy

from . import peers
from .reporting import Report

__all__ = [
    "COMPILED",
    "DENSE",
    "DENSE_AGAIN",
    "FOREIGN",
    "MASKS",
    "MIXTURE",
    "TRANSFORMER",
    "Variant",
    "build",
    "configuration",
]

TEXT, IMAGE = 57_344, 8_192


@dataclass(frozen=True)
class Variant:
    name: str
    mixer: str = "mamba"
    mixture: bool = False
    masks: bool = False
    foreign: bool = False
    compiled: bool = False


DENSE, MIXTURE = Variant("dense"), Variant("mixture", mixture=True)
DENSE_AGAIN = Variant("dense again")  # after the mixture: how much the device drifts
TRANSFORMER = Variant("transformer", mixer="attention")
MASKS = Variant("masks", mixture=True, masks=True)
FOREIGN = Variant("mamba-ssm", foreign=True)
COMPILED = Variant("mixture compiled", mixture=True, compiled=True)


def configuration(scale: str, variant: Variant) -> ModelConfig:
    size = {k: v for k, v in PRESETS[scale].items() if k != "modalities"}
    modalities = [Modality("text", "discrete", TEXT), Modality("image", "discrete", IMAGE)]
    if scale == "tiny":
        size = {"d_model": 64, "n_layers": 2}
        modalities = [Modality("text", "discrete", 60), Modality("image", "discrete", 40)]
    if not variant.mixture:
        modalities = [Modality("text", "discrete", sum(m.size for m in modalities))]
    split = PROJECTIONS if variant.mixture else frozenset()
    return ModelConfig(**size, modalities=modalities, split=split, mixer=variant.mixer)  # type: ignore[arg-type]


def batch_of(config: ModelConfig, b: int, t: int, device: torch.device) -> Batch:
    """Text and images in turns of 64 to 1024 tokens, random ids."""
    generator = torch.Generator().manual_seed(0)
    m = len(config.modalities)
    least, most = min(64, t // 8), min(1024, t // 4)
    runs = torch.randint(least, most + 1, (b, t // least + 1), generator=generator)
    ids = torch.stack(
        [torch.arange(len(r)).remainder(m).repeat_interleave(r)[:t] for r in runs]
    )  # fmt: skip
    sizes = torch.tensor([v.size for v in config.modalities])
    tokens = (torch.rand(b, t, generator=generator) * sizes[ids]).long()
    return Batch(tokens=tokens, modality_ids=ids).to(device)


def build(
    report: Report, config: ModelConfig, variant: Variant, b: int, t: int
) -> tuple[Callable[[], object], nn.Module]:
    """One training step, and the model that it trains."""
    device = report.device
    with device:
        model: nn.Module = _Foreign(config) if variant.foreign else MultimodalModel(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
    batch = batch_of(config, b, t, device)
    loss = loss_function(model, config, batch, variant)
    if variant.compiled:
        loss = torch.compile(loss)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=not report.dry):
            value = loss()
        value.backward()
        optimizer.step()

    return step, model


def loss_function(
    model: Any, config: ModelConfig, batch: Batch, variant: Variant
) -> Callable[[], Tensor]:
    if not (variant.masks or variant.foreign):
        return lambda: model(batch).loss
    b, t = batch.modality_ids.shape
    starts = torch.tensor([r[0] for r in config.vocabulary_ranges], device=batch.tokens.device)
    joint = (batch.tokens + starts[batch.modality_ids]).reshape(-1)
    targets = torch.cat([joint[1:], joint[:1]])

    def loss() -> Tensor:
        x = model.embedding.weight[joint]
        if variant.masks:
            masks = [(batch.modality_ids == m).reshape(-1) for m in range(len(config.modalities))]
            for block in model.backbone.blocks:
                x = peers.masked_block(block, x, masks, b, t)
        else:
            x = x.view(b, t, -1)
            for norm, mixer in zip(model.norms, model.mixers, strict=True):
                x = x + mixer(norm(x))
            x = x.reshape(b * t, -1)
        hidden = model.backbone.norm(x) if variant.masks else model.norm(x)
        return linear_cross_entropy(hidden, model.head.weight, targets).mean()

    return loss


class _Foreign(nn.Module):
    """mamba-ssm's dense mixer in a stack of the same shape."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n, d = config.n_layers, config.d_model
        self.embedding = nn.Embedding(config.vocabulary_size, d)
        self.mixers = nn.ModuleList(peers.mamba_block(d) for _ in range(n))
        self.norms = nn.ModuleList(nn.RMSNorm(d) for _ in range(n))
        self.norm = nn.RMSNorm(d)
        self.head = nn.Linear(d, config.vocabulary_size, bias=False)
