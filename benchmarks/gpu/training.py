"""Whole training steps at the paper's scales: forward, backward and AdamW, bf16 autocast.

All variants have the same width, depth, vocabulary and batch. Dense and transformer have one
modality (no routing at all); "masks" is the mixture as boolean masks compute it, in time order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peers
import torch
from common import Report, time_calls
from torch import Tensor, nn

from mixture_of_mamba.data.batch import Batch
from mixture_of_mamba.layers import PROJECTIONS
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.models.flops import flops_per_token
from mixture_of_mamba.models.presets import PRESETS
from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy

__all__ = ["run"]

TEXT, IMAGE = 57_344, 8_192


@dataclass(frozen=True)
class Variant:
    name: str
    mixer: str = "mamba"
    mixture: bool = False
    masks: bool = False
    compiled: bool = False


VARIANTS = (
    Variant("dense"),
    Variant("mixture", mixture=True),
    Variant("transformer", mixer="attention"),
    Variant("masks", mixture=True, masks=True),
    Variant("mamba-ssm"),
    Variant("mixture compiled", mixture=True, compiled=True),
)


def run(report: Report) -> None:
    scales = (
        ("tiny",) if report.dry else ("transfusion-163m", "transfusion-1.4b", "transfusion-760m")
    )
    for scale in scales:
        for variant in VARIANTS:
            measure_all(report, scale, variant, 16 if report.dry else 4096)
    if not report.dry:
        for length in (8192, 16384):
            for variant in VARIANTS[1:3]:
                measure_all(report, "transfusion-1.4b", variant, length)


def measure_all(report: Report, scale: str, variant: Variant, length: int) -> None:
    if variant.name == "mamba-ssm" and peers.mamba_block(64) is None:
        return
    if variant.compiled and report.dry:
        return
    name = f"step {scale} {variant.name} {length}"
    needs = 60 if variant.compiled else 25
    report.part(name, lambda found: measure(report, found, scale, variant, length), needs=needs)


def measure(
    report: Report, found: dict[str, Any], scale: str, variant: Variant, length: int
) -> None:
    config = configuration(scale, variant)
    tokens = 32 if report.dry else max(length, 16384)
    while True:  # the largest power of two of 4k .. 16k tokens that fits
        try:
            step, model = build(report, config, variant, tokens // length, length)
            step()
            break
        except torch.cuda.OutOfMemoryError:
            step = model = None  # type: ignore[assignment]
            torch.cuda.empty_cache()
            if tokens <= length:
                raise
            tokens //= 2
    if report.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    found["time"] = t = time_calls(step, report, seconds=3.0)
    found["tokens"], found["length"] = tokens, length
    found["tokens_per_second"] = rate = tokens / t.median * 1e3
    found["flops_per_token"] = flops = flops_per_token(config, window=length)
    found["flops_per_second"] = flops * rate
    found["parameters"] = sum(p.numel() for p in model.parameters())
    found["peak_gib"] = peak = (
        torch.cuda.max_memory_allocated() / 2**30 if report.device.type == "cuda" else 0.0
    )
    gemm = report.found.get("gemm", {}).get("flops_per_second")
    share = f" = {flops * rate / gemm:4.0%} of the product rate" if gemm else ""
    report.line(
        f"step {scale:17}{variant.name:17} L {length:5}: {t.median:8.1f} ms, {rate / 1e3:7.1f}k "
        f"tokens/s, {flops * rate / 1e12:6.1f} TFLOP/s{share}, peak {peak:5.1f} GiB"
    )


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
    runs = torch.randint(64, 1025, (b, t // 64 + 1), generator=generator)
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
        model: nn.Module = MultimodalModel(config)
    if variant.name == "mamba-ssm":
        model = _Foreign(config).to(device)
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
    if variant.name not in ("masks", "mamba-ssm"):
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
        self.mixers = nn.ModuleList(peers.mamba_block(d) for _ in range(n))  # type: ignore[arg-type,misc]
        self.norms = nn.ModuleList(nn.RMSNorm(d) for _ in range(n))
        self.norm = nn.RMSNorm(d)
        self.head = nn.Linear(d, config.vocabulary_size, bias=False)
