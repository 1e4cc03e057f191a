"""Relative FLOPs to match: how much of a baseline's training a variant needs to be as good.

    relative FLOPs = FLOPs of the variant until its smoothed loss first reaches the baseline's final
                     smoothed loss / FLOPs that the baseline spent

Per modality and seed; below one the variant saves. It says nothing about how far the variant gets
beyond that loss: that is `gain_percent`. Nor is it a claim about time: that is `relative_seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .curves import Array, Curve

__all__ = ["Match", "first_crossing", "match_loss"]


@dataclass(frozen=True)
class Match:
    """One variant against one baseline, one modality, one seed.

    Attributes:
        target: the baseline's final smoothed loss.
        final: the variant's final smoothed loss.
        baseline_flops, baseline_seconds: what the baseline spent.
        flops, seconds: what the variant had spent when it reached the target; None: not reached.
    """

    target: float
    final: float
    baseline_flops: float
    baseline_seconds: float
    flops: float | None
    seconds: float | None

    @property
    def relative_flops(self) -> float | None:
        """FLOPs to match / FLOPs of the baseline; None: not reached."""
        return None if self.flops is None else self.flops / self.baseline_flops

    @property
    def relative_seconds(self) -> float | None:
        """The same with training seconds, as measured; None also where none were."""
        if self.seconds is None or not self.baseline_seconds:
            return None
        return self.seconds / self.baseline_seconds

    @property
    def gain_percent(self) -> float | None:
        """How much lower the variant ends, in percent of the baseline's final loss; None where that
        is not above zero."""
        return 100.0 * (self.target - self.final) / self.target if self.target > 0 else None


def first_crossing(x: Array, y: Array, target: float) -> float | None:
    """Where y first comes down to the target, linear between points; None where it never does.

    A curve that starts at or below the target gives its first x: the true crossing is not later.
    """
    rounding = 1e-12 * abs(target)  # a run must match itself, however its smoothing was rounded
    below = np.flatnonzero(y <= target + rounding)
    if not len(below):
        return None
    i = int(below[0])
    if i == 0 or y[i] >= target:
        return float(x[i])
    part = (y[i - 1] - target) / (y[i - 1] - y[i])
    return float(x[i - 1] + part * (x[i] - x[i - 1]))


def match_loss(baseline: Curve, variant: Curve, *, points: int = 1) -> Match:
    """Compare a variant with a baseline.

    Args:
        baseline, variant: curves of the same modality, logged alike.
        points: of the smoothing window, the same for both; 1 for curves as they are.
    """
    baseline, variant = baseline.smoothed(points), variant.smoothed(points)
    target = float(baseline.losses[-1])
    flops = first_crossing(variant.flops, variant.losses, target)
    seconds = None if flops is None else float(np.interp(flops, variant.flops, variant.seconds))
    return Match(
        target=target,
        final=float(variant.losses[-1]),
        baseline_flops=float(baseline.flops[-1]),
        baseline_seconds=float(baseline.seconds[-1]),
        flops=flops,
        seconds=seconds,
    )
