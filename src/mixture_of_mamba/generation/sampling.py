"""Logits -> one token per sequence; each sequence has its own random generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..seeding import torch_seed
from .options import Sampling

__all__ = ["UniformStream", "apply_repetition_penalty", "filter_logits", "sample"]


class UniformStream:
    """One uniform number per sequence and step.

    Sequence `i` draws from a generator seeded by `seeds[i]` alone, so what it samples depends
    neither on the other sequences of the batch nor on its index there.
    """

    _AHEAD = 256

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = []
        for seed in seeds:
            self._generators.append(torch.Generator().manual_seed(torch_seed(seed)))
        self._block = torch.empty(len(seeds), 0, dtype=torch.float64)
        self._used = 0

    def next(self) -> Tensor:
        """(b,) float64 in [0, 1)."""
        if self._used == self._block.shape[1]:
            rows = [
                torch.rand(self._AHEAD, generator=g, dtype=torch.float32).double()
                for g in self._generators
            ]
            self._block = (
                torch.stack(rows) if rows else torch.empty(0, self._AHEAD, dtype=torch.float64)
            )
            self._used = 0
        self._used += 1
        return self._block[:, self._used - 1]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these sequences only."""
        self._generators = [self._generators[i] for i in rows]
        self._block = self._block[list(rows)]


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits (b, v) with those of the tokens in `seen` (b, v) bool made less likely."""
    less = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, less, logits)


def filter_logits(logits: Tensor, options: Sampling) -> Tensor:
    """Logits (b, v) at the temperature, -inf where top_k, top_p or min_p leave a token out.

    The most likely token always stays. `options.temperature` must not be 0.
    """
    logits = logits / options.temperature
    if options.top_k is not None and options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if options.top_p < 1:
        ordered, index = logits.softmax(-1).sort(-1, descending=True)
        enough = ordered.cumsum(-1) - ordered >= options.top_p
        drop = torch.zeros_like(enough).scatter(-1, index, enough)
        logits = logits.masked_fill(drop, -torch.inf)
    if options.min_p > 0:
        probability = logits.softmax(-1)
        least = options.min_p * probability.amax(-1, keepdim=True)
        logits = logits.masked_fill(probability < least, -torch.inf)
    return logits


def sample(logits: Tensor, options: Sampling, uniform: Tensor | None) -> Tensor:
    """One token of each sequence.

    Args:
        logits: (b, v), -inf where a token must not be chosen.
        options: see Sampling; the repetition penalty is the caller's (`apply_repetition_penalty`).
        uniform: (b,) in [0, 1), from UniformStream; not needed at temperature 0.

    Returns:
        (b,) int64.
    """
    logits = logits.float()
    if options.temperature == 0:
        return logits.argmax(-1)
    assert uniform is not None
    # by the inverse of the cumulative distribution: one number decides, whatever the batch
    total = filter_logits(logits, options).softmax(-1).double().cumsum(-1)
    threshold = uniform.to(total)[:, None] * total[:, -1:]
    return torch.searchsorted(total, threshold, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
