"""Which windows a step sees: an endless, reproducible order whose only state is the step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["ShuffledSampler"]


class ShuffledSampler:
    """Shuffled passes over `count` windows, one after the other.

    A function of (seed, step) alone: every variant, process and resumed run sees the same order,
    and ranks divide it between them.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        if count < 1:
            raise ValueError("there are no windows to order; the data is empty")
        self.count, self.seed = count, seed
        self._epoch = lru_cache(maxsize=4)(self._shuffled)

    def indices(self, step: int, batch_size: int, rank: int = 0, world: int = 1) -> np.ndarray:
        """(batch_size,) int64 windows of this rank at a step counted from 0.

        The ranks' parts in a row are what one rank with batch_size * world would see.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank is {rank}, but there are {world} ranks (0..{world - 1})")
        first = (step * world + rank) * batch_size
        places = np.arange(first, first + batch_size, dtype=np.int64)
        epochs, within = np.divmod(places, self.count)
        out = np.empty(batch_size, np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._epoch(int(epoch))[within[here]]
        return out

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 17, epoch]).permutation(self.count)
