"""Proportions with 95 % intervals, where the trials of one scene are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Proportion", "clustered_proportion"]


class Proportion(NamedTuple):
    """`correct` of `total`, with the 95 % interval `low`..`high` of the share."""

    correct: int
    total: int
    share: float
    low: float
    high: float


def clustered_proportion(correct: Sequence[int], trials: Sequence[int]) -> Proportion:
    """The share of correct trials over independent scenes, each with some trials of its own.

    What is right in one scene is right together more often than by chance: a scene is the unit, not
    a trial. The interval is Wilson's for the number of independent trials that are worth as much
    as these, trials / design effect; the design effect is the variance of the ratio estimator over
    that of independent trials, at least 1. Where it cannot be estimated, since all or nothing is
    correct, it is that of scenes whose trials all agree.

    Args:
        correct, trials: of each scene.

    Raises:
        ValueError: no trials, or more correct than tried.
    """
    y, m = np.asarray(correct, np.float64), np.asarray(trials, np.float64)
    if y.shape != m.shape or not m.sum() or np.any(y < 0) or np.any(y > m):
        raise ValueError(
            f"{list(correct)} of {list(trials)} are no shares; 0 <= correct <= trials is needed for"
            " each scene, and one trial at least"
        )
    total, scenes = m.sum(), int((m > 0).sum())
    share = y.sum() / total
    most = (m * m).sum() / total  # of scenes that are right or wrong as a whole
    effect = most
    if 0 < share < 1 and scenes > 1:
        # n/(n-1) times the mean square of the residuals, over that of independent trials
        spread = scenes / (scenes - 1) * ((y - share * m) ** 2).sum()
        effect = min(max(spread / (total * share * (1 - share)), 1.0), most)
    low, high = wilson_interval(share, total / effect)
    return Proportion(int(y.sum()), int(total), float(share), low, high)


def wilson_interval(share: float, total: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share of `total` independent trials.

    It stays inside 0..1 and is right near both ends, where the usual interval is not.

    Args:
        total: of trials, > 0; need not be whole.
        z: standard deviations of a normal; 1.96 for 95 %.
    """
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre = share + z * z / (2 * total)
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
