"""One interface over the ways to run a model token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..batch import Batch
from ..models import ModelState, MultimodalModel
from .ownership import Owned, continues, starts
from .sequence import TokenSequence, left_pad

__all__ = ["CachedDecoder", "Decoder", "RecomputingDecoder"]

#: Tokens of a prompt that are read in one call, over all sequences.
TOKENS_AT_ONCE = 32_768


class Decoder(Protocol):
    """A batch of sequences under way, of one thread at a time (ownership.py)."""

    model: MultimodalModel

    def start(self, prompts: Sequence[TokenSequence]) -> Tensor:
        """Read the prompts; logits of what follows each, (b, v)."""

    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        """Read one discrete token of each sequence, (b,) both; logits (b, v)."""

    def extend(self, rows: Sequence[int], parts: Sequence[TokenSequence]) -> Tensor:
        """Let some sequences read further tokens or vectors, equally many; logits (rows, v)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences only."""

    def cache(self, rows: Sequence[int]) -> ModelState:
        """State of some sequences, for samplers of continuous modalities."""


class CachedDecoder(Owned):
    """State in, state out: a step costs the same after ten tokens and after a million."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model
        self._cache: ModelState | None = None

    @starts
    def start(self, prompts: Sequence[TokenSequence]) -> Tensor:
        logits, cache = self._read(left_pad(prompts), None)
        self._store(cache)
        return logits

    @starts
    def resume(self, cache: ModelState) -> None:
        """Go on from a snapshot; the caller has the logits that belong to it."""
        self._store(cache)

    @continues
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        logits, cache = self.model.advance(tokens[:, None], modality_ids[:, None], self._present)
        self._store(cache)
        return logits

    @continues
    def extend(self, rows: Sequence[int], parts: Sequence[TokenSequence]) -> Tensor:
        if len({len(part) for part in parts}) > 1:  # padding would stand between state and part
            raise ValueError(
                f"the parts have {[len(p) for p in parts]} tokens; extend by equally many"
            )
        before = self._present.select(rows)
        logits, after = self._read(left_pad(parts), before)
        self._store(self._present.put(rows, after))
        return logits

    @continues
    def keep(self, rows: Sequence[int]) -> None:
        self._store(self._present.select(rows))

    @continues
    def cache(self, rows: Sequence[int]) -> ModelState:
        return self._present.select(rows)

    def _store(self, cache: ModelState) -> None:
        self._cache = cache

    @property
    def _present(self) -> ModelState:
        if self._cache is None:
            raise RuntimeError("the decoder has read no prompt yet; call start first")
        return self._cache

    @property
    def _device(self) -> torch.device:
        return self.model.device

    def _read(self, batch: Batch, before: ModelState | None) -> tuple[Tensor, ModelState]:
        """Long prompts are read piece by piece: memory does not grow with them either."""
        b, t = batch.shape
        # a piece must not cut a continuous segment, whose vectors know their place in it
        piece = t if batch.values else max(1, TOKENS_AT_ONCE // b)
        for start in range(0, t, piece):
            here = slice(start, start + piece)
            documents = batch.document_ids
            logits, before = self.model.advance(
                batch.tokens[:, here],
                batch.modality_ids[:, here],
                before,
                document_ids=None if documents is None else documents[:, here],
                values=batch.values,
            )
        assert before is not None  # left_pad refuses empty prompts
        return logits, before


class RecomputingDecoder(Owned):
    """For models without a state of fixed size (the attention baselines): reads all, every time."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model
        self._sequences: list[TokenSequence] = []

    @starts
    def start(self, prompts: Sequence[TokenSequence]) -> Tensor:
        self._sequences = [prompt.copy() for prompt in prompts]
        return self._run(self._sequences)

    @continues
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        pairs = zip(tokens.tolist(), modality_ids.tolist(), strict=True)
        for sequence, (token, modality) in zip(self._sequences, pairs, strict=True):
            sequence.append(modality, token)
        return self._run(self._sequences)

    @continues
    def extend(self, rows: Sequence[int], parts: Sequence[TokenSequence]) -> Tensor:
        for row, part in zip(rows, parts, strict=True):
            self._sequences[row].join(part)
        return self._run([self._sequences[row] for row in rows])

    @continues
    def keep(self, rows: Sequence[int]) -> None:
        self._sequences = [self._sequences[row] for row in rows]

    def cache(self, rows: Sequence[int]) -> ModelState:
        raise ValueError(
            "continuous modalities are sampled from the state at their begin token, and the "
            "transformer baselines have none; use a model with mixer='mamba'"
        )

    @torch.no_grad()
    def _run(self, sequences: Sequence[TokenSequence]) -> Tensor:
        batch = left_pad(sequences).to(self.model.device)
        logits = self.model(batch, return_logits=True, clean=True).logits
        assert logits is not None
        return logits[:, -1]
