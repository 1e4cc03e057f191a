"""Means over seeds, with Student's t intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["Estimate", "estimate"]

LEVEL = 0.95
"""Chance that an interval holds the true mean."""

Value = float | None


@dataclass(frozen=True)
class Estimate:
    """A figure over seeds; None stands for "not reached", which is worse than any number.

    Attributes:
        mean: over the seeds; None where one of them has not reached.
        interval: of the mean, lower and upper end; None with one seed, or where one has not
            reached: nothing is known of its value but that it is large.
        values: by seed.
    """

    mean: Value
    interval: tuple[float, float] | None
    values: tuple[Value, ...]


def estimate(values: Sequence[Value], *, least: float = -math.inf) -> Estimate:
    """Mean and Student's t interval over seeds that are independent draws.

    It holds the true mean in 95 % of all cases where values are normally distributed, from two
    seeds on; with so few the interval is wide: its half width is 9.0 standard deviations with two
    seeds, 2.5 with three, 1.2 with five.

    Args:
        least: what the figure cannot be below; an end of the interval beyond it is moved there.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("there are no values to estimate from; give those of at least one seed")
    numbers = np.array([value for value in values if value is not None], np.float64)
    n = len(values)
    if len(numbers) < n:
        return Estimate(None, None, tuple(values))
    mean = float(numbers.mean())
    if n == 1:
        return Estimate(mean, None, tuple(values))
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * numbers.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, (max(mean - half, least), mean + half), tuple(values))
