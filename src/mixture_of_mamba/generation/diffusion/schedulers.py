"""diffusers' schedulers, set up for a model and the options of a call."""

from __future__ import annotations

from typing import Any

from ...models.diffusion_config import DiffusionConfig
from ...models.noise import make_scheduler, sampling_levels
from ..options import DiffusionOptions

__all__ = ["sampling_scheduler"]

_DDPM = ("ddim", "ddpm")


def sampling_scheduler(options: DiffusionOptions, config: DiffusionConfig) -> Any:
    """The scheduler of a model with its steps set.

    Raises:
        ValueError: a sampler that does not fit what the model predicts, or too many steps.
    """
    flow = config.prediction == "flow"
    fitting = ("flow",) if flow else _DDPM
    sampler = fitting[0] if options.sampler == "auto" else options.sampler
    if sampler not in fitting:
        raise ValueError(
            f"sampler {sampler!r} does not fit a model that predicts {config.prediction!r}; "
            f"choose from auto, {', '.join(fitting)}"
        )
    if options.steps > config.timesteps:
        raise ValueError(
            f"steps is {options.steps}, but the model has {config.timesteps} noise levels; "
            "give at most that many"
        )
    scheduler = make_scheduler(config, sampler)
    if flow:
        scheduler.set_timesteps(options.steps)
    else:
        scheduler.set_timesteps(timesteps=sampling_levels(config, options.steps))
    return scheduler
