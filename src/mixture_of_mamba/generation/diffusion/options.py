"""How a continuous segment is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...models.noise import DiffusionConfig, make_scheduler, sampling_levels

__all__ = ["DiffusionOptions"]

_DDPM = ("ddim", "ddpm")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """How an image (or another continuous segment) is denoised.

    Attributes:
        sampler: "ddim" (deterministic), "ddpm" (fresh noise at each step), "flow" (Euler steps of
            a flow-matching model), or "auto": "flow" for such a model, else "ddim".
        steps: denoising steps.
        guidance: classifier-free guidance. 1 follows the context as it is, 0 forgets it, more than
            1 leans away from what the model would draw without it.
    """

    sampler: str = "auto"
    steps: int = 50
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if self.sampler not in ("auto", "flow", *_DDPM):
            raise ValueError(
                f"sampler is {self.sampler!r}; choose from auto, flow, {', '.join(_DDPM)}"
            )
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 denoising step is needed")
        if not self.guidance >= 0:
            raise ValueError(
                f"guidance is {self.guidance}; give 0 or more (1 follows the prompt as it is)"
            )

    def scheduler(self, config: DiffusionConfig) -> Any:
        """diffusers' scheduler with its steps set.

        Raises:
            ValueError: a sampler that does not fit what the model predicts, or too many steps.
        """
        flow = config.prediction == "flow"
        fitting = ("flow",) if flow else _DDPM
        sampler = fitting[0] if self.sampler == "auto" else self.sampler
        if sampler not in fitting:
            raise ValueError(
                f"sampler {sampler!r} does not fit a model that predicts {config.prediction!r}; "
                f"choose from auto, {', '.join(fitting)}"
            )
        if self.steps > config.timesteps:
            raise ValueError(
                f"steps is {self.steps}, but the model has {config.timesteps} noise levels; "
                "give at most that many"
            )
        scheduler = make_scheduler(config, sampler)
        if flow:
            scheduler.set_timesteps(self.steps)
        else:
            scheduler.set_timesteps(timesteps=sampling_levels(config, self.steps))
        return scheduler
