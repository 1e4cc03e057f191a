"""Shares of trials with their uncertainty."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Share", "wilson"]


class Share(NamedTuple):
    """`correct` of `total`, with the 95 % Wilson interval `low`..`high` of the share."""

    correct: int
    total: int
    share: float
    low: float
    high: float


def wilson(correct: int, total: int, z: float = 1.959964) -> Share:
    """The share of `total` trials that were correct, with its Wilson score interval.

    It stays inside 0..1 and is right near both ends, where the usual interval is not.

    Args:
        z: standard deviations of a normal; 1.96 for 95 %.

    Raises:
        ValueError: counts that cannot be.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} of {total} is no share; 0 <= correct <= total is needed")
    if total == 0:
        return Share(0, 0, math.nan, 0.0, 1.0)
    share = correct / total
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre = share + z * z / (2 * total)
    scale = 1 + z * z / total
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Share(correct, total, share, max(0.0, low), min(1.0, high))
