"""Settings of continuous modalities: how they are noised and what the network predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..structure import structure

__all__ = ["OLD_NAMES", "DiffusionConfig"]

#: What the network may predict.
PREDICTIONS = ("epsilon", "v", "sample", "flow")
#: Schedules of the DDPM betas, by diffusers' names.
SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
#: Names that fields of DiffusionConfig had in earlier versions -> their names now.
OLD_NAMES = {
    "level_power": "timestep_power",
    "limit_before_caption": "max_timestep_before_caption",
    "caption_dropout": "cond_drop_prob",
}


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """How continuous modalities are noised and what the network predicts."""

    prediction: Literal["epsilon", "v", "sample", "flow"] = "epsilon"
    """What the network predicts: "epsilon" (the noise), "v" (velocity of the DDPM process),
    "sample" (the clean vectors), or "flow" (noise minus clean vectors on the straight path between
    them)."""

    schedule: str = "squaredcos_cap_v2"
    """diffusers' name of the DDPM betas; the cosine schedule by default."""

    timesteps: int = 1000
    """Number of noise levels T; a level is an integer 0..T-1, 0 the cleanest."""

    timestep_power: float = 1.0
    """Levels are drawn as T * u ** timestep_power with u uniform in 0..1. 1 is uniform; below 1
    draws more noise, where the context decides what an image shows."""

    max_timestep_before_caption: float = 0.5
    """An image that stands before its caption gets levels below this share of T, so that the
    caption can be read from it (Transfusion, arXiv 2408.11039)."""

    opening_tokens: int = 2
    """Discrete tokens at most that stand before such an image in its document: the document's and
    the image's begin tokens."""

    cond_drop_prob: float = 0.1
    """Chance in training that an image starts from an empty state instead of its context; guided
    sampling leans away from what is learnt from these."""

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
    def parse(cls, plain: DiffusionConfig | Mapping[str, Any]) -> DiffusionConfig:
        """From a mapping of its fields, old names among them.

        Raises:
            ValueError: an unknown field, or a value of another type or outside its range.
        """
        if isinstance(plain, DiffusionConfig):
            return plain
        plain = {OLD_NAMES.get(name, name): value for name, value in plain.items()}
        return structure(cls, plain, "diffusion")
