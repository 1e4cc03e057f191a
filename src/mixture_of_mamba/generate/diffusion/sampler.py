"""Continuous modalities inside a decoding loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...models import Cache, MultimodalModel
from .denoise import denoise, empty_context
from .options import DiffusionOptions

__all__ = ["DiffusionSampler"]

ROWS_AT_ONCE = 4096
"""Vectors denoised together, with and without context counted each: bounds the memory."""


class DiffusionSampler:
    """Draws the segments of continuous modalities from the states at their begin tokens.

    Args:
        begin: text id of each continuous modality's begin token.
        options: sampler, steps and guidance.
        progress: show a bar over the denoising steps; None: on a terminal.
    """

    def __init__(
        self,
        begin: Mapping[str, int],
        options: DiffusionOptions | None = None,
        *,
        progress: bool | None = False,
    ) -> None:
        self.begin = dict(begin)
        self.options = options or DiffusionOptions()
        self.progress = sys.stderr.isatty() if progress is None else progress

    def __call__(
        self, model: MultimodalModel, cache: Cache, modality: str, count: int, seeds: Sequence[int]
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
        for start in range(0, cache.batch, at_once):
            here = list(range(start, min(start + at_once, cache.batch)))
            part = denoise(
                model,
                modality,
                cache.select(here),
                count,
                self.options,
                [seeds[i] for i in here],
                unconditional=empty,
                progress=self.progress,
                go_on=False,
            )
            parts.append(part.values)
        return torch.cat(parts)
