"""Samples the continuous segments of a decoding loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ...models import ModelState, MultimodalModel
from ..options import DiffusionOptions
from .denoise import denoise, empty_context

__all__ = ["DiffusionSampler"]

#: Vectors denoised together, counting those with and without context; bounds the memory.
ROWS_AT_ONCE = 4096


class DiffusionSampler:
    """Draws the segments of continuous modalities from the states at their begin tokens.

    Args:
        begin: text id of each continuous modality's begin token.
        options: sampler, steps and guidance.
        progress: called after each denoising step with its share in the images that are denoised
            together: their number over the number of steps.
    """

    def __init__(
        self,
        begin: Mapping[str, int],
        options: DiffusionOptions | None = None,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.begin = dict(begin)
        self.options = options or DiffusionOptions()
        self.progress = progress

    def __call__(
        self,
        model: MultimodalModel,
        state: ModelState,
        modality: str,
        count: int,
        seeds: Sequence[int],
    ) -> Tensor:
        """(b, count, dim) float32 clean vectors; sequence i is decided by its state and seed alone.

        Raises:
            ValueError: see `denoise`; or the begin token of the modality is not known.
        """
        empty = None
        if self.options.guidance != 1:
            if modality not in self.begin:
                raise ValueError(
                    f"no begin token of {modality!r} was given, and guidance "
                    f"{self.options.guidance:g} needs it; give begin={{{modality!r}: id}}"
                )
            empty = empty_context(model, self.begin[modality])
        at_once = max(1, ROWS_AT_ONCE // (count * (1 if empty is None else 2)))
        parts = []
        for start in range(0, state.batch, at_once):
            here = list(range(start, min(start + at_once, state.batch)))
            part = denoise(
                model,
                modality,
                state.select(here),
                count,
                self.options,
                [seeds[i] for i in here],
                unconditional=empty,
                on_step=self._on_step(len(here)),
                advance_state=False,
            )
            parts.append(part.values)
        return torch.cat(parts)

    def _on_step(self, images: int) -> Callable[[], None] | None:
        """Reports the share of a step in so many images."""
        if self.progress is None:
            return None
        return partial(self.progress, images / self.options.steps)
