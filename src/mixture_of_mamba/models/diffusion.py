"""Continuous modalities: vectors -> noised rows, and rows -> diffusion losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..layers.init import parameter_generator
from ..ops import Routing
from .config import ModelConfig
from .noise import DiffusionConfig, NoiseSchedule
from .segments import Segments, before_captions, draw_fresh_starts, find_segments

if TYPE_CHECKING:
    from .model import ModelOutput

__all__ = ["LEVELS", "ContinuousMaps", "Diffusion", "Noised"]

LEVELS = 10
"""Bins of the noise level in which losses are reported."""
FREQUENCIES = 64
"""Sines and cosines of a noise level, and of a place."""


class Noised(NamedTuple):
    """One continuous modality of a batch, noised.

    Attributes:
        where: its positions.
        t: (p,) int64 noise level; one per segment.
        values: (p, d) float32, what the network sees.
        target: (p, d) float32, what it is to predict.
    """

    where: Segments
    t: Tensor
    values: Tensor
    target: Tensor


class ContinuousMaps(nn.Module):
    """The linear maps of one continuous modality, and its conditioning.

    A vector's row is `inward(vector) + condition(noise level, place in its segment)`. Mamba's state
    would have to count patches to know where one stands; saying it is cheaper. All of it is shared
    by the variants: only the blocks are split.
    """

    def __init__(self, dim: int, d_model: int) -> None:
        super().__init__()
        self.inward = nn.Linear(dim, d_model)
        self.hidden = nn.Linear(2 * FREQUENCIES, d_model)
        self.condition = nn.Linear(d_model, d_model)
        self.outward = nn.Linear(d_model, dim)

    @torch.no_grad()
    def init_weights(self, seed: int | None, name: str) -> None:
        """Uniform in ±1/sqrt(in), the vectors' own map a fifth of that: beside noise of unit scale,
        the place and the level should be heard. Biases and the output are zero, so that the first
        prediction is 0."""
        scale = {"inward": 0.2, "outward": 0.0}
        for part, linear in self.named_children():
            assert isinstance(linear, nn.Linear)
            bound = scale.get(part, 1.0) * linear.in_features**-0.5
            generator = parameter_generator(seed, f"{name}.{part}", 0, linear.weight)
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()

    def rows(self, values: Tensor, t: Tensor, place: Tensor) -> Tensor:
        """(p, d) vectors, (p,) levels, (p,) places -> (p, d_model)."""
        # Noise is drawn and mixed in float32; the network computes in its own dtype.
        dtype = self.inward.weight.dtype
        where = torch.cat([waves(t), waves(place)], dim=-1).to(dtype)
        return self.inward(values.to(dtype)) + self.condition(F.silu(self.hidden(where)))

    def predict(self, hidden: Tensor) -> Tensor:
        """(p, d_model) -> (p, d)."""
        return self.outward(hidden)


class Diffusion(nn.Module):
    """All continuous modalities of a model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = DiffusionConfig.parse(config.diffusion)
        self.schedule = NoiseSchedule(self.config)
        self.modalities = {
            m.name: i for i, m in enumerate(config.modalities) if m.kind == "continuous"
        }
        self.weights = {n: config.modalities[i].loss_weight for n, i in self.modalities.items()}
        self.maps = nn.ModuleDict(
            {n: ContinuousMaps(config.modalities[i].size, config.d_model)
             for n, i in self.modalities.items()}
        )  # fmt: skip

    def __getitem__(self, name: str) -> ContinuousMaps:
        return self.maps[name]  # type: ignore[return-value]

    def init_weights(self, seed: int | None) -> None:
        for name in self.modalities:
            self[name].init_weights(seed, f"diffusion.{name}")

    def drop_captions(self, batch: Batch, discrete: Tensor) -> Tensor | None:
        """(b, t) bool, where some images are cut off from their context, for guided sampling; None:
        nowhere."""
        if not self.config.cond_drop_prob:
            return None
        generator = batch_generator(batch, "captions")
        return draw_fresh_starts(batch, discrete, self.config.cond_drop_prob, generator)

    def noise(
        self, batch: Batch, routing: Routing, discrete: Tensor, *, clean: bool = False
    ) -> dict[str, Noised]:
        """Draw noise for every continuous modality.

        Args:
            batch: with its documents as the data has them; `batch.seed` fixes the draws.
            discrete: (m,) bool.
            clean: add none: the values at level 0, as context.
        """
        leads = before_captions(batch, discrete, self.config.opening_tokens)
        noised = {}
        for name, modality in self.modalities.items():
            if name in batch.values:
                values = batch.values[name]
            else:
                inward = self[name].inward
                values = torch.zeros(
                    *(0, inward.in_features),
                    dtype=inward.weight.dtype,
                    device=batch.tokens.device,
                )
            values = values if values.dtype == torch.float64 else values.float()
            where = find_segments(batch, routing, modality, len(values), leads)
            if clean:
                noised[name] = Noised(where, torch.zeros_like(where.place), values, values)
            else:
                noised[name] = self._noise(values, where, batch_generator(batch, name))
        return noised

    def _noise(self, clean: Tensor, where: Segments, generator: torch.Generator | None) -> Noised:
        draws = torch.rand(
            len(clean), generator=generator, device=clean.device, dtype=torch.float32
        )[where.number]
        top = torch.where(where.leads, self.config.max_timestep_before_caption, 1.0)
        last = self.config.timesteps - 1
        draws = draws**self.config.timestep_power
        t = (draws * top * self.config.timesteps).long().clamp(max=last)
        noise = torch.randn(
            clean.shape, generator=generator, device=clean.device, dtype=torch.float32
        ).to(clean.dtype)
        noised = self.schedule.add_noise(clean, noise, t)
        return Noised(where, t, noised, self.schedule.target(clean, noise, t))

    def embed(self, rows: Tensor, noised: Mapping[str, Noised]) -> Tensor:
        """Put the continuous rows into (r, d_model)."""
        for name, x in noised.items():
            mine = self[name].rows(x.values, x.t, x.where.place)
            rows = rows.index_copy(0, x.where.rows, mine.to(rows.dtype))
        return rows

    def add_losses(self, output: ModelOutput, hidden: Tensor, noised: Mapping[str, Noised]) -> None:
        """Add each continuous modality's loss to what the discrete ones gave."""
        levels = output.extra.setdefault("noise_levels", {})
        for name, x in noised.items():
            error, levels[name] = self.errors(hidden, name, x)
            count = x.where.counts.sum().to(error.dtype)
            total = error.sum()
            output.loss = output.loss + self.weights[name] * total / count.clamp(min=1.0)
            output.losses[name] = (total / count).detach()
            output.counts[name] = count
            output.totals[name] = total

    def errors(self, hidden: Tensor, name: str, noised: Noised) -> tuple[Tensor, Tensor]:
        """Squared error of each position that counts, and its level bin.

        Returns:
            (p,) mean over the vector, zero where the position does not count; (LEVELS, 2) sum of
            errors and number of positions by noise level, from clean to noise.
        """
        prediction = self[name].predict(hidden[noised.where.rows])
        wide = torch.float64 if prediction.dtype == torch.float64 else torch.float32
        error = (prediction.to(wide) - noised.target.to(wide)).square().mean(-1)
        error = torch.where(noised.where.counts, error, 0.0)
        level = noised.t * LEVELS // self.config.timesteps
        pairs = torch.stack([error.detach(), noised.where.counts.to(wide)], dim=-1)
        return error, pairs.new_zeros(LEVELS, 2).index_add(0, level, pairs)


def waves(x: Tensor) -> Tensor:
    """(p,) -> (p, FREQUENCIES) sines and cosines of wavelengths 2 pi … 20,000 pi."""
    half = FREQUENCIES // 2
    steps = torch.arange(half, device=x.device, dtype=torch.float32)
    rates = torch.exp(steps * (-math.log(10_000) / half))
    angle = x[:, None].float() * rates
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def batch_generator(batch: Batch, purpose: str) -> torch.Generator | None:
    """A generator for (batch.seed, purpose); None, the global one, where the batch has no seed."""
    if batch.seed is None:
        return None
    return parameter_generator(batch.seed, purpose, 0, batch.tokens)
