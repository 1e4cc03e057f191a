"""Means over seeds, and how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "estimate", "median_coverage"]

Value = float | None


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds; None stands for "not reached", which is worse than any number.

    Attributes:
        mean: over the seeds; None where one of them has not reached.
        interval: bootstrap interval of the mean, lower and upper end; None with one seed.
        values: by seed.
    """

    mean: Value
    interval: tuple[Value, Value] | None
    values: tuple[Value, ...]

    @property
    def reached(self) -> int:
        """Number of seeds that reached."""
        return sum(value is not None for value in self.values)


def estimate(values: Sequence[Value], *, level: float = 0.95, resamples: int = 10_000) -> Estimate:
    """Mean and percentile bootstrap interval over seeds; the same values give the same interval.

    "Not reached" counts as infinity: an upper end that lies there is None, and the mean is too.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("there are no values to estimate from; give those of at least one seed")
    numbers = np.array([np.inf if v is None else v for v in values])
    interval = None
    if len(numbers) > 1:
        draws = np.random.default_rng(0).integers(len(numbers), size=(resamples, len(numbers)))
        means = np.sort(numbers[draws].mean(1))
        low = means[int(np.floor((1 - level) / 2 * (resamples - 1)))]
        high = means[int(np.ceil((1 + level) / 2 * (resamples - 1)))]
        interval = (_finite(low), _finite(high))
    return Estimate(_finite(numbers.mean()), interval, tuple(values))


def median_coverage(seeds: int) -> float:
    """Chance that the range of so many independent values holds the true median: 1 - 2^(1 - n).

    A bootstrap interval of the mean cannot leave that range, so with few seeds its nominal level is
    out of reach: 50 % with two seeds, 75 % with three, 94 % with five.
    """
    return 1.0 - 2.0 ** (1 - seeds)


def _finite(value: float) -> Value:
    return float(value) if np.isfinite(value) else None
