"""Noise levels, noised values and targets against the schedulers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from mixture_of_mamba.models.diffusion_config import DiffusionConfig
from mixture_of_mamba.models.noise import (
    NoiseSchedule,
    make_scheduler,
    sampling_levels,
)
from tests.helpers.sequences import batch_of, caption_first, image_first, model_of

LEVELS = torch.tensor([0, 1, 250, 500, 750, 999])


def cosine(t: torch.Tensor, T: int = 1000) -> torch.Tensor:
    """Squared share of the signal after level t in the cosine schedule, from its definition."""

    def bar(x: torch.Tensor) -> torch.Tensor:
        return torch.cos((x / T + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = torch.arange(T, dtype=torch.float64)
    beta = (1 - bar(steps + 1) / bar(steps)).clamp(max=0.999)
    return (1 - beta).cumprod(0)[t]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_ddpm_noise_follows_the_cosine_formula(prediction: str) -> None:
    schedule = NoiseSchedule(DiffusionConfig(prediction=prediction))  # type: ignore[arg-type]
    clean, noise = torch.randn(2, len(LEVELS), 3)
    a = cosine(LEVELS).float()[:, None]
    noised = a.sqrt() * clean + (1 - a).sqrt() * noise
    torch.testing.assert_close(
        schedule.add_noise(clean, noise, LEVELS), noised, rtol=1e-4, atol=1e-4
    )
    targets = {"epsilon": noise, "sample": clean, "v": a.sqrt() * noise - (1 - a).sqrt() * clean}
    torch.testing.assert_close(
        schedule.target(clean, noise, LEVELS), targets[prediction], rtol=1e-4, atol=1e-4
    )


def test_flow_matching_walks_the_straight_path() -> None:
    schedule = NoiseSchedule(DiffusionConfig(prediction="flow"))
    clean, noise = torch.randn(2, len(LEVELS), 3)
    s = (LEVELS[:, None] + 1) / 1000
    torch.testing.assert_close(
        schedule.add_noise(clean, noise, LEVELS), (1 - s) * clean + s * noise
    )
    torch.testing.assert_close(schedule.target(clean, noise, LEVELS), noise - clean)


def test_statistics_of_noised_values_match_the_schedule() -> None:
    schedule = NoiseSchedule(DiffusionConfig())
    clean = torch.full((20_000, 1), 2.0)
    for t in (100, 500, 900):
        level = torch.full((len(clean),), t)
        x = schedule.add_noise(clean, torch.randn_like(clean), level)
        a = cosine(torch.tensor([t])).item()
        assert abs(x.mean().item() - 2 * a**0.5) < 0.03
        assert abs(x.var().item() - (1 - a)) < 0.03


def drawn_levels(windows: list, seeds: int = 40, **diffusion: float) -> torch.Tensor:
    """(seeds, images) levels of a batch's images."""
    model = model_of(**diffusion)
    levels = []
    for seed in range(seeds):
        batch = batch_of(windows, seed)
        routing = _routing(batch)
        x = model.diffusion.add_noise(batch, routing, model._discrete)["image"]
        per_image = x.t.view(-1, 4)
        assert (per_image == per_image[:, :1]).all()  # one noise level per image
        levels.append(per_image[:, 0])
    return torch.stack(levels)


def _routing(batch):  # type: ignore[no-untyped-def]
    from mixture_of_mamba.ops import Routing

    return Routing.build(batch.modality_ids, 2, batch.document_ids)


def test_images_before_their_caption_get_limited_noise() -> None:
    windows = [[image_first(i), caption_first(i + 50)] for i in range(8)]
    levels = drawn_levels(windows).view(-1, 8, 2)
    leading, following = levels[..., 0].flatten(), levels[..., 1].flatten()
    assert leading.max() < 500
    assert leading.float().mean() == pytest.approx(250, abs=25)
    assert following.max() > 900
    assert following.float().mean() == pytest.approx(500, abs=50)


def test_an_image_without_any_caption_is_not_limited() -> None:
    levels = drawn_levels([[image_first(i, words=0)] for i in range(8)])
    assert levels.max() > 900


def test_levels_are_uniform_and_independent_between_images() -> None:
    levels = drawn_levels([[caption_first(i)] for i in range(8)], seeds=200).float() / 1000
    histogram = torch.histc(levels, 5, 0, 1) / levels.numel()
    assert (histogram - 0.2).abs().max() < 0.04
    correlation = torch.corrcoef(levels.T) - torch.eye(8)
    assert correlation.abs().max() < 0.3


def test_a_power_below_one_draws_more_noise() -> None:
    levels = drawn_levels([[caption_first(i)] for i in range(8)], timestep_power=0.5).float() / 1000
    # u ** 0.5 has density 2 x: mean 2/3, a quarter of it below one half
    assert levels.mean() == pytest.approx(2 / 3, abs=0.03)
    assert (levels < 0.5).float().mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_latents_are_not_clipped(kind: str) -> None:
    """Latents of unit scale reach beyond -1..1; diffusers' samplers clip there by default."""
    config = DiffusionConfig(prediction="sample")
    scheduler = make_scheduler(config, kind)
    scheduler.set_timesteps(timesteps=sampling_levels(config, 10))
    clean = torch.tensor([[3.0, -4.0]])
    step = scheduler.step(clean, scheduler.timesteps[-1], torch.zeros(1, 2))
    torch.testing.assert_close(step.prev_sample, clean)


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"prediction": "noise"}, "diffusion.prediction is 'noise'; choose from epsilon"),
        ({"schedule": "cosin"}, "diffusion.schedule is 'cosin'"),
        ({"timesteps": 1}, "diffusion.timesteps is 1"),
        ({"max_timestep_before_caption": 0}, "must lie above 0"),
        ({"cond_drop_prob": 1.0}, "diffusion.cond_drop_prob is 1.0"),
        ({"timestep_power": 0.0}, "diffusion.timestep_power is 0.0"),
        ({"opening_tokens": -1}, "diffusion.opening_tokens is -1"),
        ({"timesteps": "abc"}, "diffusion.timesteps is 'abc', which is no whole number"),
        ({"timesteps": True}, "diffusion.timesteps is True, which is no whole number"),
        ({"timestep_power": "much"}, "diffusion.timestep_power is 'much', which is no number"),
        ({"schedule": 3}, "diffusion.schedule is 3, which is no text"),
        ({"guidance": 2}, "unknown field 'guidance'; choose from prediction"),
    ],
)
def test_a_wrong_setting_is_named(plain: dict, words: str) -> None:
    with pytest.raises(ValueError) as error:
        DiffusionConfig.parse(plain)
    assert words in str(error.value)
