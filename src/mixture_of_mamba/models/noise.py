"""Noise schedules of continuous modalities: what is added, and what is to be predicted.

The schedules are diffusers' own, so that a trained model can be sampled by diffusers' samplers.
diffusers is imported at the first use, not with this package.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..extras import needs
from .diffusion_config import DiffusionConfig

__all__ = ["NoiseSchedule", "make_scheduler", "sampling_levels"]


class NoiseSchedule:
    """The forward process of a DiffusionConfig, on vectors (p, d) with levels t (p,)."""

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        # By device: a copy in every step would make the host wait for it.
        self._sigmas: dict[torch.device, Tensor] = {}

    @cached_property
    def scheduler(self) -> Any:
        """diffusers' scheduler of this process."""
        return make_scheduler(self.config, "flow" if self.config.prediction == "flow" else "ddpm")

    def sigma(self, t: Tensor) -> Tensor:
        """Share of noise on the straight path of "flow", in (0, 1]; shape of t."""
        if t.device not in self._sigmas:
            self._sigmas[t.device] = self.scheduler.sigmas.flip(0).to(t.device)
        sigmas = self._sigmas[t.device]  # ascending, 1/T..1
        return sigmas[t + len(sigmas) - self.config.timesteps]

    def add_noise(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The vectors at noise level t.

        Args:
            clean, noise: (p, d) float32.
            t: (p,) int64.
        """
        if self.config.prediction == "flow":
            s = self.sigma(t)[:, None].to(clean.dtype)
            return (1 - s) * clean + s * noise
        return self.scheduler.add_noise(clean, noise, t)

    def target(self, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict, (p, d)."""
        match self.config.prediction:
            case "epsilon":
                return noise
            case "sample":
                return clean
            case "v":
                return self.scheduler.get_velocity(clean, noise, t)
            case _:
                return noise - clean


def make_scheduler(config: DiffusionConfig, kind: str) -> Any:
    """A diffusers scheduler over the config's noise levels.

    Clipping is off: latents are not confined to -1..1.

    Args:
        kind: "ddpm", "ddim" or "flow". The first two are to be given the levels that they go
            through (`sampling_levels`): what diffusers chooses is right only where T is a multiple
            of the steps. DDIM is DPM-Solver++ of order 1 (arXiv 2211.01095, section 4), because
            diffusers' DDIMScheduler takes no levels.
    """
    with needs("a continuous modality", "train"):
        from diffusers import (
            DDPMScheduler,
            DPMSolverMultistepScheduler,
            FlowMatchEulerDiscreteScheduler,
        )
    if kind == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.timesteps)
    names = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
    common = {
        "num_train_timesteps": config.timesteps,
        "beta_schedule": config.schedule,
        "prediction_type": names[config.prediction],
    }
    if kind == "ddim":
        return DPMSolverMultistepScheduler(
            **common, solver_order=1, algorithm_type="dpmsolver++", final_sigmas_type="zero"
        )
    return DDPMScheduler(**common, clip_sample=False)


def sampling_levels(config: DiffusionConfig, steps: int) -> list[int]:
    """The noise levels that `steps` denoising steps start from, falling; the last one ends clean.

    Sampling should begin at pure noise, level T - 1. Only there the noise's share is so close to
    all that clean vectors cannot be told from a predicted epsilon, which therefore begins 2 % lower
    where the levels suffice.

    Args:
        steps: 1..T.
    """
    levels = config.timesteps
    if config.prediction != "epsilon":
        return [round(levels * (steps - i) / steps) - 1 for i in range(steps)]
    first = max(levels - max(1, levels // 50), steps - 1)
    if steps == 1:
        return [first]
    return [round(first * (steps - 1 - i) / (steps - 1)) for i in range(steps)]
