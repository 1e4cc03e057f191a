"""Noise schedules of continuous modalities: what is added, and what is to be predicted.

The schedules are diffusers' own, so that a trained model can be sampled by diffusers' samplers.
diffusers is imported at the first use, not with this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..extras import needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["DiffusionConfig", "NoiseSchedule", "make_scheduler", "sampling_levels"]

PREDICTIONS = ("epsilon", "v", "sample", "flow")
SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
#: Names that fields of DiffusionConfig had in earlier versions -> their names now.
OLD_NAMES = {
    "level_power": "timestep_power",
    "limit_before_caption": "max_timestep_before_caption",
    "caption_dropout": "cond_drop_prob",
}


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """How continuous modalities are noised and what the network predicts.

    Attributes:
        prediction: "epsilon" (the noise), "v" (velocity of the DDPM process), "sample" (the clean
            vectors), or "flow" (noise minus clean vectors on the straight path between them).
        schedule: diffusers' name of the DDPM betas; the cosine schedule by default.
        timesteps: number of noise levels `T`; a level is an integer 0..T-1, 0 the cleanest.
        timestep_power: levels are drawn as T * u ** timestep_power with u uniform in 0..1. 1 is
            uniform; below 1 draws more noise, where the context decides what an image shows.
        max_timestep_before_caption: an image that stands before its caption gets levels below
            this share of T, so that the caption can be read from it (Transfusion, arXiv
            2408.11039).
        opening_tokens: discrete tokens at most that stand before such an image in its document:
            the document's and the image's begin tokens.
        cond_drop_prob: chance in training that an image starts from an empty state instead of
            its context; what guided sampling leans away from is learnt from these.
    """

    prediction: Literal["epsilon", "v", "sample", "flow"] = "epsilon"
    schedule: str = "squaredcos_cap_v2"
    timesteps: int = 1000
    timestep_power: float = 1.0
    max_timestep_before_caption: float = 0.5
    opening_tokens: int = 2
    cond_drop_prob: float = 0.1

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"diffusion.prediction is {self.prediction!r}; choose from {', '.join(PREDICTIONS)}"
            )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"diffusion.schedule is {self.schedule!r}; choose from {', '.join(SCHEDULES)}"
            )
        if self.timesteps < 2:
            raise ValueError(f"diffusion.timesteps is {self.timesteps}; it must be at least 2")
        if not 0 < self.timestep_power < float("inf"):
            raise ValueError(
                f"diffusion.timestep_power is {self.timestep_power}; it must be above 0"
            )
        if self.opening_tokens < 0:
            raise ValueError(f"diffusion.opening_tokens is {self.opening_tokens}; give 0 or more")
        if not 0 < self.max_timestep_before_caption <= 1:
            raise ValueError(
                f"diffusion.max_timestep_before_caption is {self.max_timestep_before_caption}; "
                "it must lie above 0 and at most at 1"
            )
        if not 0 <= self.cond_drop_prob < 1:
            raise ValueError(
                f"diffusion.cond_drop_prob is {self.cond_drop_prob}; it must lie in 0..1, below 1"
            )

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> DiffusionConfig:
        """From ModelConfig.diffusion.

        Raises:
            ValueError: an unknown field, or a value of another type or outside its range.
        """
        plain = {OLD_NAMES.get(name, name): value for name, value in plain.items()}
        known = {f.name: f.default for f in fields(cls)}
        if unknown := set(plain) - set(known):
            raise ValueError(
                f"diffusion has unknown fields {sorted(unknown)}; choose from {', '.join(known)}"
            )
        for name, value in plain.items():
            number = not isinstance(value, bool) and isinstance(value, (int, float))
            default = known[name]
            if isinstance(default, str):
                fits, kind = isinstance(value, str), "a name"
            elif isinstance(default, int):
                fits, kind = number and isinstance(value, int), "a whole number"
            else:
                fits, kind = number, "a number"
            if not fits:
                raise ValueError(f"diffusion.{name} is {value!r}; it must be {kind}")
        return cls(**plain)


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
