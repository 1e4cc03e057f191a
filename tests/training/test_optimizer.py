"""Which parameters decay, the schedule, and the limit on the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.training.config import TrainConfig
from mixture_of_mamba.training.lr_schedule import learning_rate
from mixture_of_mamba.training.optimizer import clip_grad_norm, decays, make_optimizer


@pytest.fixture(scope="module")
def model() -> MultimodalModel:
    modalities = [Modality("text", "discrete", 9), Modality("image", "continuous", 4)]
    return MultimodalModel(ModelConfig(d_model=16, n_layers=1, modalities=modalities))


def test_what_does_not_decay(model: MultimodalModel) -> None:
    kept = {name for name, p in model.named_parameters() if not decays(name, p)}
    mixer = "backbone.blocks.0.mixer"
    assert kept >= {
        "embedding.weight",
        "backbone.norm.weight",
        "backbone.blocks.0.norm.weight",
        f"{mixer}.A_log",
        f"{mixer}.D",
        f"{mixer}.dt_proj.bias",
        f"{mixer}.conv1d.bias",
    }
    decayed = {name for name, _ in model.named_parameters()} - kept
    assert {f"{mixer}.{p}_proj.weight" for p in ("in", "x", "dt", "out")} <= decayed
    assert "head.weight" in decayed
    assert not any(n.endswith(("bias", "A_log", ".D")) or "norm" in n for n in decayed)


def test_every_parameter_is_in_one_group(model: MultimodalModel) -> None:
    groups = make_optimizer(model.named_parameters(), TrainConfig(weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


def test_warm_up_then_cosine() -> None:
    config = TrainConfig(steps=110, warmup=10, learning_rate=1.0, final_learning_rate=0.1)
    rates = [learning_rate(step, config) for step in range(1, 111)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0
    assert rates[59] == pytest.approx(0.55)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert learning_rate(1, TrainConfig(steps=5, warmup=0, learning_rate=1.0)) < 1.0


@pytest.mark.parametrize("clip", [0.0, 0.5, 100.0])
def test_limit_gradients(clip: float) -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g.clone()
    unused = nn.Parameter(torch.zeros(2))
    norm = clip_grad_norm([*parameters, unused], clip)
    assert norm.item() == pytest.approx(5.0)
    left = min(1.0, clip / 5.0) if clip else 1.0
    for p, g in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(p.grad, g * left, rtol=1e-5, atol=0)
    assert unused.grad is None
