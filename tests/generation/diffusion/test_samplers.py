"""Samplers with any number of steps, against what a Gaussian gives in closed form and against the
formulas of their papers in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.generation.diffusion import DiffusionOptions, sampling_scheduler
from mixture_of_mamba.models.diffusion_config import DiffusionConfig
from mixture_of_mamba.models.noise import NoiseSchedule, sampling_levels

MEAN, STD = 2.0, 0.5
SAMPLERS = [
    *((prediction, kind) for prediction in ("epsilon", "v", "sample") for kind in ("ddim", "ddpm")),
    ("flow", "flow"),
]
Predict = Callable[[Tensor, Tensor], Tensor]


def products(config: DiffusionConfig) -> Tensor:
    """(T,) float64 share of signal in the variance at each level."""
    return NoiseSchedule(config).scheduler.alphas_cumprod.double()


def best_prediction(config: DiffusionConfig) -> Predict:
    """What a network that has learnt N(MEAN, STD²) perfectly says of x at level t."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        if config.prediction == "flow":
            sigma = t.double() / config.timesteps
            a, s = 1 - sigma, sigma
        else:
            share = products(config)[int(t)]
            a, s = share.sqrt(), (1 - share).sqrt()
        gain = a * STD**2 / (a**2 * STD**2 + s**2)
        clean = MEAN + gain * (x - a * MEAN)
        noise = (x - a * clean) / s
        return {
            "epsilon": noise,
            "sample": clean,
            "v": a * noise - s * clean,
            "flow": noise - clean,
        }[config.prediction]

    return predict


def sampled(config: DiffusionConfig, kind: str, steps: int, count: int) -> Tensor:
    scheduler = sampling_scheduler(DiffusionOptions(sampler=kind, steps=steps), config)
    assert len(scheduler.timesteps) == steps
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(count // 2, generator=generator, dtype=torch.float64)
    x = torch.cat([half, -half])[:, None]  # of mean 0 to the bit
    predict = best_prediction(config)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x, generator=generator).prev_sample
    return x[:, 0]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 99, 256, 400, 501, 600, 999, 1000])
@pytest.mark.parametrize(("prediction", "kind"), SAMPLERS)
def test_every_number_of_steps_samples_the_right_distribution(
    prediction: str, kind: str, steps: int
) -> None:
    config = DiffusionConfig(prediction=prediction)  # type: ignore[arg-type]
    x = sampled(config, kind, steps, 1000)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.05)
    if steps >= 99:  # with fewer the steps themselves are what is wrong
        assert float(x.std()) == pytest.approx(STD, abs=0.05)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_every_number_of_steps_of_a_short_process(prediction: str, schedule: str) -> None:
    config = DiffusionConfig(prediction=prediction, schedule=schedule, timesteps=60)  # type: ignore[arg-type]
    # what is left of the mean in the noise that sampling starts from is not there
    left = float(products(config)[-2].sqrt()) * MEAN
    for steps in range(1, 61):
        levels = sampling_levels(config, steps)
        assert levels == sorted(set(levels), reverse=True)
        assert levels[-1] >= 0 and levels[0] < 60
        x = sampled(config, "ddim", steps, 2)
        assert abs(float(x.mean()) - MEAN) < 0.02 + left


def test_levels_of_common_settings() -> None:
    """As diffusers has them where the steps divide the levels."""
    epsilon, v = DiffusionConfig(prediction="epsilon"), DiffusionConfig(prediction="v")
    assert sampling_levels(epsilon, 50) == list(range(980, -1, -20))
    assert sampling_levels(v, 50) == list(range(999, 0, -20))
    assert sampling_levels(epsilon, 1000) == sampling_levels(v, 1000) == list(range(999, -1, -1))


def ddim(config: DiffusionConfig, levels: list[int], x: Tensor, predict: Predict) -> Tensor:
    """arXiv 2010.02502, equation 12 with sigma 0."""
    share = products(config)
    for t, after in zip(levels, [*levels[1:], None], strict=True):
        p, a, s = predict(x, torch.tensor(t)), share[t].sqrt(), (1 - share[t]).sqrt()
        clean, noise = {
            "epsilon": ((x - s * p) / a, p),
            "v": (a * x - s * p, a * p + s * x),
            "sample": (p, (x - a * p) / s),
        }[config.prediction]
        to = torch.tensor(1.0).double() if after is None else share[after]
        x = to.sqrt() * clean + (1 - to).sqrt() * noise
    return x


def ddpm(
    config: DiffusionConfig, levels: list[int], x: Tensor, predict: Predict, draws: Tensor
) -> Tensor:
    """arXiv 2006.11239, equation 7, between any two levels."""
    share = products(config)
    for t, after, draw in zip(levels, [*levels[1:], None], draws, strict=True):
        p, a, s = predict(x, torch.tensor(t)), share[t].sqrt(), (1 - share[t]).sqrt()
        clean = {"epsilon": (x - s * p) / a, "v": a * x - s * p, "sample": p}[config.prediction]
        to = torch.tensor(1.0).double() if after is None else share[after]
        kept = share[t] / to
        mean = to.sqrt() * (1 - kept) * clean + kept.sqrt() * (1 - to) * x
        x = mean / (1 - share[t]) + ((1 - to) / (1 - share[t]) * (1 - kept)).sqrt() * draw
    return x


@pytest.mark.parametrize("steps", [1, 3, 50, 400, 501, 1000])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_samplers_of_diffusers_compute_the_papers_formulas(prediction: str, steps: int) -> None:
    config = DiffusionConfig(prediction=prediction)  # type: ignore[arg-type]
    levels, start = sampling_levels(config, steps), torch.linspace(-3, 3, 7).double()[:, None]

    def predict(x: Tensor, t: Tensor) -> Tensor:  # of no distribution, and not linear
        return torch.sin(2 * x + t.double() / 300) + 0.2

    x = start
    scheduler = sampling_scheduler(DiffusionOptions(sampler="ddim", steps=steps), config)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x).prev_sample
    expected = ddim(config, levels, start, predict)
    assert float((x - expected).abs().max() / expected.abs().max()) < 2e-3

    x = start
    scheduler = sampling_scheduler(DiffusionOptions(sampler="ddpm", steps=steps), config)
    generators = [torch.Generator().manual_seed(i) for i in range(len(start))]
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x, generator=generators).prev_sample
    generators = [torch.Generator().manual_seed(i) for i in range(len(start))]
    draws = [torch.cat([torch.randn(1, 1, generator=g, dtype=torch.float64) for g in generators])
             for _ in range(steps)]  # fmt: skip
    expected = ddpm(config, levels, start, predict, torch.stack(draws))
    assert float((x - expected).abs().max() / expected.abs().max()) < 2e-3


def test_noise_and_targets_of_diffusers_are_the_papers_formulas() -> None:
    clean, noise = torch.randn(9, 4).double(), torch.randn(9, 4).double()
    t = torch.tensor([0, 1, 5, 99, 500, 900, 980, 998, 999])
    for prediction in ("epsilon", "v", "sample", "flow"):
        config = DiffusionConfig(prediction=prediction)  # type: ignore[arg-type]
        schedule = NoiseSchedule(config)
        if prediction == "flow":
            s = ((t + 1) / 1000)[:, None].double()
            a, target = 1 - s, noise - clean
        else:
            a, s = (v[t].sqrt()[:, None] for v in (products(config), 1 - products(config)))
            target = {"epsilon": noise, "sample": clean, "v": a * noise - s * clean}[prediction]
        torch.testing.assert_close(
            schedule.add_noise(clean, noise, t), a * clean + s * noise, rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(schedule.target(clean, noise, t), target, rtol=1e-5, atol=1e-6)
