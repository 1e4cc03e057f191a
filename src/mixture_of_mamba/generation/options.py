"""Options of generation, and their defaults; importing them does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = [
    "DIFFUSION_OPTIONS",
    "MAX_TEXT_TOKENS",
    "MAX_TOKENS",
    "SAMPLING_OPTIONS",
    "TEXT_TEMPERATURE",
    "TOKEN_GUIDANCE",
    "DiffusionOptions",
    "GenerationOptions",
    "Sampling",
]

#: New tokens of a document at most, unless told otherwise; a fixed length counts before it.
MAX_TOKENS = 400
#: The same where text alone is generated.
MAX_TEXT_TOKENS = 100
#: Temperature of one text per prompt: the most likely token at each step.
TEXT_TEMPERATURE = 0.0
#: Guidance of tokens; that of vectors is the default of DiffusionOptions.
TOKEN_GUIDANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is chosen. The filters are applied in the order of the fields.

    Attributes:
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that
            the sequence holds already (arXiv 1909.05858); 1 is none.
        temperature: of the softmax; 0 takes the most likely token.
        top_k: keep the k most likely tokens.
        top_p: keep the most likely tokens that together reach this probability.
        min_p: keep tokens with at least this fraction of the most likely one's probability.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; give at least 1, or None for all")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must lie in [0, 1]")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}; it must be > 0")


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions:
    """How an image (or another continuous segment) is denoised.

    Attributes:
        sampler: "ddim" (deterministic), "ddpm" (fresh noise at each step), "flow" (Euler steps of
            a flow-matching model), or "auto": "flow" for such a model, else "ddim".
        steps: denoising steps.
        guidance: scale of classifier-free guidance. 1 follows the context as it is, 0 ignores it,
            more than 1 moves away from what the model would draw without it.
    """

    sampler: str = "auto"
    steps: int = 50
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if self.sampler not in ("auto", "flow", "ddim", "ddpm"):
            raise ValueError(f"sampler is {self.sampler!r}; choose from auto, flow, ddim, ddpm")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; at least 1 denoising step is needed")
        if not self.guidance >= 0:
            raise ValueError(
                f"guidance is {self.guidance}; give 0 or more (1 follows the prompt as it is)"
            )


#: Names of the options that decide how tokens are sampled, and how vectors are; guidance serves
#: both.
SAMPLING_OPTIONS = tuple(field.name for field in fields(Sampling))
DIFFUSION_OPTIONS = tuple(f.name for f in fields(DiffusionOptions) if f.name != "guidance")


@dataclass(frozen=True)
class GenerationOptions:
    """Options by what they are for.

    Attributes:
        sampling: of tokens.
        diffusion: of vectors, their guidance among it.
        guidance: of tokens.
    """

    sampling: Sampling = Sampling()
    diffusion: DiffusionOptions = DiffusionOptions()
    guidance: float = TOKEN_GUIDANCE

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """Options as methods of the generator take them by name.

        Raises:
            TypeError: an option that does not exist.
            ValueError: an option out of range.
        """
        known = {*SAMPLING_OPTIONS, *DIFFUSION_OPTIONS, "guidance"}
        if unknown := options.keys() - known:
            raise TypeError(f"there are no options {sorted(unknown)}; choose from {sorted(known)}")
        sampling = {k: v for k, v in options.items() if k in SAMPLING_OPTIONS}
        diffusion = {k: v for k, v in options.items() if k not in SAMPLING_OPTIONS}
        return cls(
            Sampling(**sampling),
            DiffusionOptions(**diffusion),
            options.get("guidance", TOKEN_GUIDANCE),
        )
