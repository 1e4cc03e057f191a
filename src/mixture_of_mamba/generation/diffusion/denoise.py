"""Denoising from a snapshot: the context is read once, each step runs only the segment's own rows.

A state-space model's past is its state. The state at the begin token is kept, every denoising step
starts from it, and the clean vectors advance it: the cost of an image does not depend on how much
text stands before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...batch import Batch
from ...models import MultimodalModel
from ...models.cache import Cache
from ...models.inference import run_blocks
from ...ops import Routing
from ...seeding import torch_seed
from .options import DiffusionOptions

__all__ = ["Denoised", "denoise", "empty_context"]


class Denoised(NamedTuple):
    """Sampled segments.

    Attributes:
        values: (b, length, d) clean vectors.
        state: after them, where text goes on.
    """

    values: Tensor
    state: Cache


def empty_context(model: MultimodalModel, begin: int, *, modality: str = "text") -> Cache:
    """The state after a begin token that nothing precedes: what guidance leans away from.

    Args:
        begin: id of the begin token in the vocabulary of `modality`.
    """
    ids = torch.full((1, 1), model.config.index(modality))
    return model.advance(torch.full((1, 1), begin), ids)[1]


@torch.no_grad()
def denoise(
    model: MultimodalModel,
    name: str,
    state: Cache,
    length: int,
    options: DiffusionOptions,
    seeds: Sequence[int],
    *,
    unconditional: Cache | None = None,
    on_step: Callable[[], None] | None = None,
    go_on: bool = True,
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
        go_on: let the clean vectors advance the state; otherwise `state` is returned as it was.

    Raises:
        ValueError: no such continuous modality, numbers that do not fit, guidance without an
            unconditional state, or an options field that the model cannot serve.
    """
    diffusion = model.diffusion
    if diffusion is None or name not in diffusion.modalities:
        raise ValueError(
            f"this model has no continuous modality {name!r} to denoise; it has "
            + ", ".join(f"{m.name} ({m.kind})" for m in model.config.modalities)
        )
    if len(seeds) != state.batch:
        raise ValueError(f"{len(seeds)} seeds for {state.batch} sequences; give one for each")
    if length < 1:
        raise ValueError(f"length is {length}; a segment needs at least 1 vector")
    rows = _Rows(model, name, state, length, options.guidance, unconditional)
    scheduler = options.scheduler(diffusion.config)
    # diffusers counts the levels of flow matching from 1, where sigma is 1 / T
    lowest = 1 if diffusion.config.prediction == "flow" else 0
    generators = [torch.Generator().manual_seed(torch_seed(seed)) for seed in seeds]
    device = model.device
    shape = (length, model.config.modalities[rows.modality].size)
    noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float32) for g in generators])
    sample = noise.to(device) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        prediction = rows.predict(sample, float(t) - lowest)
        sample = scheduler.step(prediction, t, sample, generator=generators).prev_sample
        if on_step is not None:
            on_step()
    return Denoised(sample, rows.advance(sample) if go_on else state)


class _Rows:
    """The rows of `b` segments, run from the snapshot as often as there are steps."""

    def __init__(
        self,
        model: MultimodalModel,
        name: str,
        state: Cache,
        length: int,
        guidance: float,
        unconditional: Cache | None,
    ) -> None:
        assert model.diffusion is not None
        self.model, self.state, self.guidance = model, state, guidance
        self.modality = model.config.index(name)
        self.maps = model.diffusion[name]
        self.batch, self.length = state.batch, length
        self.snapshot = state
        if guidance != 1:
            if unconditional is None:
                raise ValueError(
                    f"guidance {guidance:g} needs the state of an empty context; "
                    "give unconditional=empty_context(model, begin_token), or guidance 1"
                )
            forgotten = unconditional.select([0] * state.batch)
            plain = [c.blocks for c in (state, forgotten)]
            blocks = tuple(
                type(a)(*(torch.cat(pair) for pair in zip(a, b, strict=True)))
                for a, b in zip(*plain, strict=True)
            )
            self.snapshot = Cache(
                model.config, blocks, torch.cat([state.position, forgotten.position])
            )
        rows = self._tokens(self.snapshot.batch)
        self.routing = Routing.build(
            rows.modality_ids,
            len(model.config.modalities),
            host_offsets=rows.row_ends,
            check=False,
        )

    def predict(self, sample: Tensor, t: float) -> Tensor:
        """(b, length, d) noisy vectors, one level for all -> the guided prediction."""
        if self.guidance == 1:
            return self._run(sample, t)
        with_context, without = self._run(torch.cat([sample, sample]), t).chunk(2)
        return without + self.guidance * (with_context - without)

    def _run(self, sample: Tensor, t: float) -> Tensor:
        rows = self._embed(sample, t)
        hidden, _ = self.model.backbone(rows, self.routing, self.snapshot)
        return self.maps.predict(hidden).float().view(sample.shape)

    def advance(self, clean: Tensor) -> Cache:
        """The state after the clean vectors."""
        batch = self._tokens(self.batch)
        embed = lambda batch, routing: self._embed(clean, 0.0)  # noqa: E731
        after = run_blocks(self.model, batch, self.state, embed=embed)[2]
        assert after is not None
        return after

    def _tokens(self, batch: int) -> Batch:
        """The segments' positions, made on the host, which so knows the numbers of rows."""
        ids = torch.full((batch, self.length), self.modality)
        return Batch(modality_ids=ids, tokens=torch.zeros_like(ids)).to(self.model.device)

    def _embed(self, values: Tensor, t: float) -> Tensor:
        count = values.shape[0] * self.length
        place = torch.arange(self.length, device=values.device).repeat(values.shape[0])
        level = torch.full((count,), t, device=values.device, dtype=torch.float32)
        weight = self.maps.inward.weight
        return self.maps.rows(values.reshape(count, -1).to(weight.dtype), level, place)
