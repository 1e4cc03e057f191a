"""The analytic count is exactly what torch counts while the model runs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mixture_of_mamba.batch import Batch
from mixture_of_mamba.layers import PROJECTIONS
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.models.flops import flops_breakdown, flops_per_token

MODALITIES = (Modality("text", "discrete", 37), Modality("image", "discrete", 11))
SPLITS = [
    frozenset(split)
    for size in range(len(PROJECTIONS) + 1)
    for split in combinations(sorted(PROJECTIONS), size)
]


def make_config(**fields: Any) -> ModelConfig:
    return ModelConfig(**({"d_model": 20, "n_layers": 2, "modalities": MODALITIES} | fields))


def make_batch(batch: int = 2, length: int = 13) -> Batch:
    generator = torch.Generator().manual_seed(0)
    modality = torch.randint(0, 2, (batch, length), generator=generator)
    tokens = torch.randint(0, 11, (batch, length), generator=generator)
    documents = torch.arange(length).expand(batch, length) // 5
    return Batch(modality_ids=modality, tokens=tokens, document_ids=documents)


def make_mixed_batch() -> Batch:
    """Two windows of text with pictures of 4 vectors, and a third without."""
    modality = torch.zeros(3, 13, dtype=torch.long)
    modality[0, 2:6] = modality[1, 3:7] = modality[1, 8:12] = 1
    segments = torch.arange(3 * 13).view(3, 13)
    for row, start in ((0, 2), (1, 3), (1, 8)):
        segments[row, start : start + 4] = segments[row, start]
    values = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.where(modality == 0, 5, 0)
    return Batch(
        modality_ids=modality, tokens=tokens, segment_ids=segments, values={"image": values}
    )


def counted(config: ModelConfig, batch: Batch, *, training: bool) -> int:
    """What torch counts while the model runs. The math kernel of attention is the one whose parts
    torch counts on the CPU."""
    model = MultimodalModel(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with torch.set_grad_enabled(training):
            loss = model(batch).loss
        if training:
            loss.backward()
    return counter.get_total_flops()


def expected(config: ModelConfig, batch: Batch, *, training: bool) -> int:
    b, t = batch.shape
    return b * t * flops_per_token(config, training=training, window=t)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("split", SPLITS, ids=lambda split: "+".join(sorted(split)) or "none")
def test_analytic_flops_equal_torchs_count_for_all_splits(
    split: frozenset[str], training: bool
) -> None:
    config = make_config(split=split)
    batch = make_batch()
    assert expected(config, batch, training=training) == counted(config, batch, training=training)


@pytest.mark.parametrize(
    "fields",
    [
        {"d_model": 33, "n_layers": 3, "d_state": 5, "d_conv": 3, "expand": 3},
        {"dt_rank": 7, "d_state": 1},
        {"tie_embeddings": True},
        {"vocabulary": "separate"},
        {"modalities": (*MODALITIES, Modality("speech", "discrete", 5))},
        {"d_model": 32, "mixer": "attention", "head_dim": 8},
        {"d_model": 32, "mixer": "attention", "head_dim": 8, "n_layers": 3, "split": "none"},
    ],
    ids=lambda fields: "-".join(f"{k}" for k in fields),
)
def test_analytic_flops_equal_torchs_count_for_odd_shapes(fields: dict[str, Any]) -> None:
    config = make_config(**fields)
    for batch in (make_batch(), make_batch(3, 7)):
        assert expected(config, batch, training=True) == counted(config, batch, training=True)


@pytest.mark.parametrize("split", ["none", "all"])
@pytest.mark.parametrize("training", [True, False])
def test_analytic_flops_equal_torchs_count_with_a_continuous_modality(
    split: str, training: bool
) -> None:
    modalities = (Modality("text", "discrete", 37), Modality("image", "continuous", 7))
    config = make_config(modalities=modalities, split=split)
    batch = make_mixed_batch()
    counts = {"text": 27, "image": 12}
    each = sum(flops_breakdown(config, training=training, counts=counts).values())
    assert 39 * each == pytest.approx(counted(config, batch, training=training), rel=1e-12)


@pytest.mark.parametrize("mixer", ["mamba", "attention"])
def test_all_splits_cost_the_same(mixer: str) -> None:
    counts = {
        flops_per_token(make_config(d_model=64, mixer=mixer, split=split)) for split in SPLITS
    }
    assert len(counts) == 1


def test_breakdown_of_a_block_by_hand() -> None:
    """d 20, inner 40, rank 2, 16 states, 4 taps, 48 words; forward only, two layers."""
    parts = flops_breakdown(make_config(), training=False)
    assert parts == {
        "projections": 2 * 2 * (20 * 80 + 40 * (2 + 32) + 2 * 40 + 40 * 20),
        "convolution": 2 * 40 * (2 * 4 + 2),
        "scan": 2 * 40 * (7 * 16 + 5),
        "head": 2 * 20 * 48,
    }
