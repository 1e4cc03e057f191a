"""Interleaved timing: in every round each candidate takes a turn, so a noisy minute hits them all.

A turn begins with calls that are not counted, until `settle` has passed: what the candidate before
it left in the caches is not what is measured, and a last-level cache forgets it over several calls.
Candidates that take longer than LONG wipe the caches themselves anyway.

Where two candidates differ by little, `ratio` times them as a b b a, and looks at the ratio within
such a group: a machine that gets slower for some seconds does so for both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

__all__ = ["Settings", "Timing", "compare", "ratio"]


LONG = 0.15  # seconds


@dataclass(frozen=True)
class Settings:
    """Seconds and rounds that one candidate may take, and seconds not counted in each."""

    seconds: float = 2.0
    rounds: int = 25
    settle: float = 0.02
    quick: bool = False


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def __str__(self) -> str:
        spread = (self.high - self.low) / 2 / self.median * 100 if self.median else 0.0
        return f"{self.median:.4g} ms ±{spread:.0f}%"


@dataclass(frozen=True)
class Ratio:
    """Median over pairs, with the 95 % interval of that median (by ranks)."""

    median: float
    low: float
    high: float
    pairs: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def compare(candidates: dict[str, Callable[[], object]], settings: Settings) -> dict[str, Timing]:
    """Time all candidates in rounds; slow ones take part in fewer rounds.

    One call of each warms up: compilers, caches and allocators are not what is measured. Of a
    candidate that takes longer than four times its budget, that first call is the measurement.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    budget = settings.seconds / 8 if settings.quick else settings.seconds
    slow: set[str] = set()
    for name, call in candidates.items():
        if (spent := _seconds(call)) > 4 * budget:
            slow.add(name)
            times[name].append(spent)
    for _ in range(3 if settings.quick else settings.rounds):
        for name, call in candidates.items():
            mine = times[name]
            if name in slow or (len(mine) >= 2 and sum(mine) > budget):
                continue
            if not mine or mine[-1] < LONG:
                _settle(call, settings.settle)
            mine.append(_seconds(call))
    return {name: _summary(values) for name, values in times.items()}


def ratio(call: Callable[[], object], base: Callable[[], object], settings: Settings) -> Ratio:
    """Time of `call` over that of `base`."""
    ratios: list[float] = []
    end = time.perf_counter() + (settings.seconds if settings.quick else 6 * settings.seconds)
    call(), base()
    while len(ratios) < 5 or time.perf_counter() < end:
        first, second, third, fourth = (_seconds(c) for c in (call, base, base, call))
        ratios.append((first + fourth) / (second + third))
    ratios.sort()
    n = len(ratios)
    margin = 0.98 * n**0.5  # of ranks: 1.96 standard deviations of a binomial with p = 1/2
    low, high = max(0, round(n / 2 - margin)), min(n - 1, round(n / 2 + margin))
    return Ratio(statistics.median(ratios), ratios[low], ratios[high], n)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _settle(call: Callable[[], object], seconds: float) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        call()


def _summary(seconds: list[float]) -> Timing:
    ms = sorted(1e3 * s for s in seconds)
    quarter = len(ms) // 4
    return Timing(statistics.median(ms), ms[quarter], ms[-1 - quarter], len(ms))
