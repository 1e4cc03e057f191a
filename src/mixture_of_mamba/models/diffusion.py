"""Continuous modalities: vectors -> noised inputs, and rows -> diffusion losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..layers.init import parameter_generator
from ..ops import Routing
from .config import ModelConfig
from .continuous import ContinuousProjections
from .diffusion_config import DiffusionConfig
from .noise import NoiseSchedule
from .segments import Segments, before_captions, draw_fresh_starts, find_segments

__all__ = ["NOISE_BINS", "ContinuousInputs", "Diffusion"]

#: Bins of the noise level in which losses are reported.
NOISE_BINS = 10


class ContinuousInputs(NamedTuple):
    """One continuous modality of a batch as the network sees it.

    Attributes:
        segments: its positions.
        t: (p,) int64 timestep, the noise level: one per segment; 0 without noise.
        values: (p, d) float32, what the network sees.
        target: (p, d) float32, what it is to predict; without noise the values.
    """

    segments: Segments
    t: Tensor
    values: Tensor
    target: Tensor


class Diffusion(nn.Module):
    """All continuous modalities of a model; there may be none."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = DiffusionConfig.parse(config.diffusion)
        self.schedule = NoiseSchedule(self.config)
        #: Name -> modality id.
        self.modalities = {m.name: i for i, m in enumerate(config.modalities) if not m.discrete}
        self.maps = nn.ModuleDict(
            {n: ContinuousProjections(config.modalities[i].size, config.d_model)
             for n, i in self.modalities.items()}
        )  # fmt: skip

    def __getitem__(self, name: str) -> ContinuousProjections:
        return self.maps[name]  # type: ignore[return-value]

    def init_weights(self, seed: int | None) -> None:
        """Draw the initial values."""
        for name in self.modalities:
            self[name].init_weights(seed, f"diffusion.{name}")

    def drop_context(self, batch: Batch, starts: Tensor | None, discrete: Tensor) -> Tensor | None:
        """Cut some segments off from their context, for classifier-free guidance.

        Args:
            batch: the windows; `batch.seed` fixes the draws.
            starts: (b, t) bool, tokens that begin with an empty state; None: only the first ones.
            discrete: (m,) bool, which modalities are discrete.

        Returns:
            `starts` with the begin tokens of the drawn segments.
        """
        if not self.modalities or not self.config.cond_drop_prob:
            return starts
        generator = batch_generator(batch, "captions")
        drawn = draw_fresh_starts(batch, discrete, self.config.cond_drop_prob, generator)
        return drawn if starts is None else starts | drawn

    def add_noise(
        self, batch: Batch, routing: Routing, discrete: Tensor, *, clean: bool = False
    ) -> dict[str, ContinuousInputs]:
        """Noise every continuous modality.

        Args:
            batch: the windows; `batch.seed` fixes the draws.
            routing: with the documents as the data has them.
            discrete: (m,) bool, which modalities are discrete.
            clean: add no noise: the values are context.

        Returns:
            By name, every continuous modality: where gradients are taken, one that the batch has no
            values of gets its zeros too. Clean and without gradients, only those with values.
        """
        present = self.modalities
        if clean and not torch.is_grad_enabled():
            present = {name: i for name, i in present.items() if name in batch.values}
        if not present:
            return {}
        precedes_caption = before_captions(
            batch, routing.resets, discrete, self.config.opening_tokens
        )
        inputs = {}
        for name, modality in present.items():
            values = self._values(batch, name)
            segments = find_segments(batch, routing, modality, len(values), precedes_caption)
            if clean:
                t = torch.zeros_like(segments.position)
                inputs[name] = ContinuousInputs(segments, t, values, values)
            else:
                inputs[name] = self._noised(values, segments, batch_generator(batch, name))
        return inputs

    def _values(self, batch: Batch, name: str) -> Tensor:
        """(p, d) vectors of a modality; none if the batch has none."""
        if name in batch.values:
            values = batch.values[name]
        else:
            inward, device = self[name].inward, batch.tokens.device
            values = torch.zeros(0, inward.in_features, dtype=inward.weight.dtype, device=device)
        return values if values.dtype == torch.float64 else values.float()

    def _noised(
        self, clean: Tensor, segments: Segments, generator: torch.Generator | None
    ) -> ContinuousInputs:
        draws = torch.rand(
            len(clean), generator=generator, device=clean.device, dtype=torch.float32
        )[segments.segment_index]
        top = torch.where(segments.precedes_caption, self.config.max_timestep_before_caption, 1.0)
        last = self.config.timesteps - 1
        draws = draws**self.config.timestep_power
        t = (draws * top * self.config.timesteps).long().clamp(max=last)
        noise = torch.randn(
            clean.shape, generator=generator, device=clean.device, dtype=torch.float32
        ).to(clean.dtype)
        values = self.schedule.add_noise(clean, noise, t)
        return ContinuousInputs(segments, t, values, self.schedule.target(clean, noise, t))

    def embed(self, rows: Tensor, inputs: Mapping[str, ContinuousInputs]) -> Tensor:
        """Put the rows of continuous positions into (r, d_model)."""
        for name, x in inputs.items():
            embedded = self[name].embed(x.values, x.t, x.segments.position)
            rows = rows.index_copy(0, x.segments.rows, embedded.to(rows.dtype))
        return rows

    def errors(self, hidden: Tensor, name: str, inputs: ContinuousInputs) -> tuple[Tensor, Tensor]:
        """Squared error of each position that counts, and its sums by noise level.

        Args:
            hidden: (r, d_model) rows of the whole batch.
            name: of the modality.
            inputs: what the network saw of it.

        Returns:
            (p,) mean over the vector, zero where the position does not count; (NOISE_BINS, 2) sum
            of errors and number of positions by noise level, from clean to noise.
        """
        prediction = self[name].predict(hidden[inputs.segments.rows])
        wide = torch.float64 if prediction.dtype == torch.float64 else torch.float32
        error = (prediction.to(wide) - inputs.target.to(wide)).square().mean(-1)
        error = torch.where(inputs.segments.mask, error, 0.0)
        level = inputs.t * NOISE_BINS // self.config.timesteps
        pairs = torch.stack([error.detach(), inputs.segments.mask.to(wide)], dim=-1)
        return error, pairs.new_zeros(NOISE_BINS, 2).index_add(0, level, pairs)


def batch_generator(batch: Batch, purpose: str) -> torch.Generator | None:
    """A generator for (batch.seed, purpose); None, the global one, if the batch has no seed."""
    if batch.seed is None:
        return None
    return parameter_generator(batch.seed, purpose, 0, batch.tokens)
