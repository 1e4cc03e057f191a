"""Every place that takes a seed takes any whole number, and refuses what is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.data.sampler import ShuffledSampler
from mixture_of_mamba.generation.diffusion import DiffusionOptions, denoise
from mixture_of_mamba.generation.sampling import UniformStream
from mixture_of_mamba.modalities.image.kl_network import train as train_autoencoder
from mixture_of_mamba.seeding import torch_seed
from mixture_of_mamba.training.random_state import isolated_rng
from tests.helpers.sequences import batch_of, caption_first, model_of

SEEDS = [0, 7, 2**31, 2**32 + 7, int(2e13), 2**63, 2**64, 10**40, -1, -(2**63), -(10**40)]
Draw = Callable[[Any], Any]


def drawn(seed: Any) -> torch.Tensor:
    return UniformStream([seed]).next()


def initial(seed: Any) -> torch.Tensor:
    return MultimodalModel(model_of().config, seed=seed).head.weight.detach()


def loss(seed: Any) -> torch.Tensor:
    batch = batch_of([[caption_first(1)]], seed=seed)
    return model_of().train()(batch).losses["image"]


def image(seed: Any) -> torch.Tensor:
    model = model_of().eval()
    tokens = torch.tensor([[1, 2]])
    state = model.advance(tokens, torch.zeros_like(tokens))[1]
    return denoise(model, "image", state, 4, DiffusionOptions(steps=2, guidance=1.0), [seed]).values


def beside(seed: Any) -> torch.Tensor:
    with isolated_rng(seed):
        return torch.rand(3)


@pytest.mark.parametrize("draw", [drawn, initial, loss, image, beside])
def test_any_whole_number_is_a_seed(draw: Draw) -> None:
    results = [draw(seed) for seed in SEEDS]
    for seed, result in zip(SEEDS, results, strict=True):
        assert torch.equal(draw(seed), result)
    assert torch.equal(draw(np.int64(7)), results[1])
    wide = {tuple(torch.as_tensor(x).flatten().tolist()) for x in results}
    assert len(wide) >= len(SEEDS) - 3  # torch reads 32 bits of a seed on the CPU


@pytest.mark.parametrize("seed", [2e13, "7", 1.5])
@pytest.mark.parametrize("draw", [drawn, initial, loss, image, beside])
def test_what_is_no_whole_number_is_refused(draw: Draw, seed: Any) -> None:
    with pytest.raises(TypeError, match=r"seed is .*; give a whole number"):
        draw(seed)


@pytest.mark.parametrize("seed", [2**32 + 7, 2**64, 10**40])
def test_data_takes_large_seeds(seed: int) -> None:
    assert sorted(ShuffledSampler(5, seed).indices(0, 5)) == list(range(5))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    a, b = (train_autoencoder(images, steps=1, seed=seed).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_seeds_that_torch_takes_stay_what_they_are() -> None:
    for seed in (0, 5, 2**64 - 1, -(2**63)):
        assert torch_seed(seed) == seed
    assert torch_seed(2**64) != torch_seed(2**64 + 1)
    assert 0 <= torch_seed(-(10**30)) < 2**64


def test_a_batchs_seed_is_checked_where_the_batch_is_made() -> None:
    ids = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"seed is 0\.5; give a whole number"):
        Batch(tokens=ids, modality_ids=ids, seed=0.5)  # type: ignore[arg-type]
