"""The decoding loop: logits -> allowed tokens -> sampled tokens -> next logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..models import ModelState, MultimodalModel
from .decoders import Decoder
from .grammar import Cursor, Grammar
from .options import Sampling
from .sampling import UniformStream, apply_repetition_penalty, sample
from .sequence import TokenSequence

__all__ = ["ContinuousSampler", "Decoding", "Event"]


class ContinuousSampler(Protocol):
    """Draws the vectors of a continuous modality from the state at its begin token."""

    def __call__(
        self,
        model: MultimodalModel,
        state: ModelState,
        modality: str,
        count: int,
        seeds: Sequence[int],
    ) -> Tensor:
        """(b, count, dim) float32; sequence i is decided by its state and `seeds[i]` alone."""


class Event(NamedTuple):
    """What one sequence has just gained.

    Attributes:
        row: index of the prompt.
        modality: name.
        token: id inside the modality; -1 where it is continuous.
        values: (p, dim), where it is continuous.
        last: whether the sequence ends here.
    """

    row: int
    modality: str
    token: int
    values: Tensor | None = None
    last: bool = False


class Decoding:
    """Every prompt, continued until it ends by the grammar, or by length; iterate for the events.

    Rows of all tensors are `self.active`, indices of the prompts that have not ended.

    Args:
        decoder: runs the model.
        prompts: what the sequences hold so far; at least one token each.
        cursors: where each prompt stops; a modality that it has just opened, or text.
        grammar, options: what may be sampled, and how.
        seeds: one per sequence; equal seeds and prompts give equal sequences in any batch.
        max_tokens: most new tokens of a sequence; the vectors of one image count one each.
        sampler: for continuous modalities.
    """

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[TokenSequence],
        cursors: Sequence[Cursor],
        grammar: Grammar,
        options: Sampling,
        *,
        seeds: Sequence[int],
        max_tokens: int,
        sampler: ContinuousSampler | None = None,
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}; it must be at least 1")
        if not len(prompts) == len(cursors) == len(seeds):
            raise ValueError(
                f"{len(prompts)} prompts, {len(cursors)} cursors and {len(seeds)} seeds were "
                "given; give one of each for every prompt"
            )
        self.decoder, self.grammar, self.options, self.sampler = decoder, grammar, options, sampler
        self.seeds, self.max_tokens = list(seeds), max_tokens
        self.active = list(range(len(prompts)))
        self.done = [False] * len(prompts)
        self.cursors, self.generated = list(cursors), [0] * len(prompts)
        self.uniforms = UniformStream(seeds)
        self.logits = decoder.start(prompts).cpu() if prompts else torch.empty(0, 0)
        self.seen = self._tokens_in(prompts) if options.repetition_penalty != 1 else None

    def __iter__(self) -> Iterator[Event]:
        while self.active:
            yield from self._vectors()
            yield from self._tokens()

    def _vectors(self) -> Iterator[Event]:
        """Sample the continuous segments that have just been opened, and read them back in."""
        for modality in sorted({self.cursors[row].modality for row in self.active}):
            rows = [
                i
                for i, row in enumerate(self.active)
                if self.cursors[row].modality == modality and not self.done[row]
            ]
            if rows and self.grammar.continuous(Cursor(modality)):
                yield from self._segment(modality, rows)
        self._compact()

    def _segment(self, modality: int, rows: list[int]) -> Iterator[Event]:
        tokenizers = self.grammar.tokenizers
        name = tokenizers.names[modality]
        count = tokenizers.fixed_length.get(name)
        if self.sampler is None or count is None:
            raise ValueError(
                f"modality {name!r} is continuous; sampling it needs a sampler and a fixed length"
            )
        sequences = [self.active[i] for i in rows]
        # one image's noise must not follow from the draws of the text before it
        seeds = [self.seeds[row] * 1_000_003 + self.generated[row] for row in sequences]
        values = self.sampler(
            self.decoder.model, self.decoder.cache(rows), name, count, seeds
        ).cpu()
        parts = []
        for row, vectors in zip(sequences, values, strict=True):
            self.generated[row] += count
            self.cursors[row] = Cursor(tokenizers.text_id)
            self.done[row] = self.grammar.only or self.generated[row] >= self.max_tokens
            yield Event(row, name, -1, vectors, self.done[row])
            part = TokenSequence()
            part.append_values(modality, name, vectors)
            part.append(tokenizers.text_id, tokenizers.end[name])
            parts.append(part)
        if not all(self.done[row] for row in sequences):
            self.logits = self.logits.clone()
            self.logits[rows] = self.decoder.extend(rows, parts).cpu()

    def _tokens(self) -> Iterator[Event]:
        """Sample one token of every sequence and let the model read it."""
        if not self.active:
            return
        grammar = self.grammar
        mask = torch.stack([grammar.mask(self.cursors[row]) for row in self.active])
        logits = self.logits
        if self.seen is not None:
            logits = apply_repetition_penalty(logits, self.seen, self.options.repetition_penalty)
        uniform = self.uniforms.next()
        chosen = sample(logits.masked_fill(~mask, -torch.inf), self.options, uniform)
        if self.seen is not None:
            self.seen[torch.arange(len(chosen)), chosen] = True
        modality = torch.tensor([self.cursors[row].modality for row in self.active])
        tokens = chosen - torch.tensor([grammar.ranges[m][0] for m in modality.tolist()])
        pairs = zip(self.active, modality.tolist(), tokens.tolist(), strict=True)
        for row, m, token in pairs:
            self.cursors[row], last = grammar.advance(self.cursors[row], token)
            self.generated[row] += 1
            self.done[row] = last or self.generated[row] >= self.max_tokens
            yield Event(row, grammar.tokenizers.names[m], token, None, self.done[row])
        rows = self._compact()
        if rows:
            self.logits = self.decoder.step(tokens[rows], modality[rows]).cpu()

    def _compact(self) -> list[int]:
        """Drop the sequences that have ended; the former rows of those that go on."""
        rows = [i for i, row in enumerate(self.active) if not self.done[row]]
        changed = len(rows) < len(self.active)
        self.active = [self.active[i] for i in rows]
        if rows and changed:
            self.decoder.keep(rows)
            self.uniforms.keep(rows)
            self.logits = self.logits[rows]
            if self.seen is not None:
                self.seen = self.seen[rows]
        return rows

    def _tokens_in(self, prompts: Sequence[TokenSequence]) -> Tensor:
        seen = torch.zeros(self.logits.shape, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for modality, token in zip(prompt.modalities, prompt.tokens, strict=True):
                if not self.grammar.continuous(Cursor(modality)):
                    seen[row, self.grammar.ranges[modality][0] + token] = True
        return seen
