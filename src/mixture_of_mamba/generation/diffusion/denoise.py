"""Denoising from a state: the context is read once, each step runs only the segment's own rows.

A state-space model's past is its state. The state at the begin token is kept, every denoising step
starts from it, and the clean vectors advance it: the cost of an image does not depend on the length
of the text before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import MultimodalModel
from ...models.state import ModelState, check_state
from ...ops import Routing
from ...seeding import torch_seed
from ..options import DiffusionOptions
from .schedulers import sampling_scheduler

__all__ = ["Denoised", "denoise", "empty_context"]


class Denoised(NamedTuple):
    """Sampled segments.

    Attributes:
        values: (b, length, d) clean vectors.
        state: after them, where text goes on.
    """

    values: Tensor
    state: ModelState


def empty_context(model: MultimodalModel, begin: int, *, modality: str = "text") -> ModelState:
    """The state after a begin token that nothing precedes: the unconditional state of
    classifier-free guidance.

    Args:
        begin: id of the begin token in the vocabulary of `modality`.
    """
    ids = torch.full((1, 1), model.config.index(modality))
    return model.advance(torch.full((1, 1), begin), ids)[1]


@torch.no_grad()
def denoise(
    model: MultimodalModel,
    name: str,
    state: ModelState,
    length: int,
    options: DiffusionOptions,
    seeds: Sequence[int],
    *,
    unconditional: ModelState | None = None,
    on_step: Callable[[], None] | None = None,
    advance_state: bool = True,
) -> Denoised:
    """Sample one segment of a continuous modality in each of `b` sequences.

    Args:
        model: in eval mode.
        name: of the modality.
        state: of `b` sequences, after the segment's begin token.
        length: vectors of a segment.
        options: sampler, steps, guidance.
        seeds: one per sequence; equal seeds and states give equal segments, whatever else is in
            the batch.
        unconditional: from `empty_context`; needed unless guidance is 1.
        on_step: called after each step.
        advance_state: return the state after the clean vectors; otherwise `state` as it was.

    Raises:
        ValueError: no such continuous modality, numbers that do not fit, guidance without an
            unconditional state, or an options field that the model cannot serve.
    """
    diffusion = model.diffusion
    if name not in diffusion.modalities:
        raise ValueError(
            f"this model has no continuous modality {name!r} to denoise; it has "
            + ", ".join(f"{m.name} ({m.kind})" for m in model.config.modalities)
        )
    if len(seeds) != state.batch:
        raise ValueError(f"{len(seeds)} seeds for {state.batch} sequences; give one for each")
    if length < 1:
        raise ValueError(f"length is {length}; a segment needs at least 1 vector")
    segments = _Segments(model, name, state, length, options.guidance, unconditional)
    scheduler = sampling_scheduler(options, diffusion.config)
    # diffusers counts the timesteps of flow matching from 1, where sigma is 1 / T
    lowest = 1 if diffusion.config.prediction == "flow" else 0
    generators = [torch.Generator().manual_seed(torch_seed(seed)) for seed in seeds]
    device = model.device
    shape = (length, model.config.modalities[segments.modality].size)
    noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])
    sample = noise.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        prediction = segments.predict(sample, float(t) - lowest)
        sample = scheduler.step(prediction, t, sample, generator=generators).prev_sample
        if on_step is not None:
            on_step()
    return Denoised(sample, segments.advance(sample) if advance_state else state)


class _Segments:
    """The rows of `b` segments, run from the state before them as often as there are steps."""

    def __init__(
        self,
        model: MultimodalModel,
        name: str,
        state: ModelState,
        length: int,
        guidance: float,
        unconditional: ModelState | None,
    ) -> None:
        check_state(state, model.config, state.batch, model.activation_dtype)
        self.model, self.state, self.length, self.guidance = model, state, length, guidance
        self.modality = model.config.index(name)
        self.projections = model.diffusion[name]
        self.start = state
        if guidance != 1:
            if unconditional is None:
                raise ValueError(
                    f"guidance {guidance:g} needs the state of an empty context; "
                    "give unconditional=empty_context(model, begin_token), or guidance 1"
                )
            empty = unconditional.select([0] * state.batch)
            self.start = ModelState.concatenate([state, empty])
        self.routing = self._routing(self.start.batch)

    def predict(self, sample: Tensor, t: float) -> Tensor:
        """(b, length, d) noisy vectors, one timestep for all -> the guided prediction."""
        if self.guidance == 1:
            return self._run(sample, t)
        with_context, without = self._run(torch.cat([sample, sample]), t).chunk(2)
        return without + self.guidance * (with_context - without)

    def _run(self, sample: Tensor, t: float) -> Tensor:
        hidden, _ = self.model.backbone(self._embed(sample, t), self.routing, self.start)
        return self.projections.predict(hidden).float().view(sample.shape)

    def advance(self, clean: Tensor) -> ModelState:
        """The state after the clean vectors."""
        routing = self._routing(self.state.batch)
        _, blocks = self.model.backbone(self._embed(clean, 0.0), routing, self.state)
        return self.state.after(blocks, None, self.length)

    def _routing(self, batch: int) -> Routing:
        """All positions are of one modality, so the host knows the numbers of rows."""
        ids = torch.full((batch, self.length), self.modality, device=self.model.device)
        ends = torch.tensor([0] * self.modality + [ids.numel()], dtype=torch.int32)
        n = len(self.model.config.modalities)
        return Routing.build(ids, n, host_offsets=ends, check=False)

    def _embed(self, values: Tensor, t: float) -> Tensor:
        count = values.shape[0] * self.length
        position = torch.arange(self.length, device=values.device).repeat(values.shape[0])
        timestep = torch.full((count,), t, device=values.device, dtype=torch.float32)
        weight = self.projections.inward.weight
        return self.projections.embed(
            values.reshape(count, -1).to(weight.dtype), timestep, position
        )
