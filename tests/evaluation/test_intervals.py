"""Means and intervals over seeds, and how often they hold what is true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mixture_of_mamba.evaluation.ablation import synergy
from mixture_of_mamba.evaluation.intervals import estimate
from mixture_of_mamba.layers import PROJECTION_ORDER

values = st.lists(st.floats(0.1, 2.0), min_size=2, max_size=6)
DRAWS = 4_000
CHANCE = 4 * (0.95 * 0.05 / DRAWS) ** 0.5
"""Four standard deviations of a coverage that is counted in so many draws."""


@given(values)
def test_interval_is_student_s(seeds: list[float]) -> None:
    result = estimate(seeds)
    with np.errstate(all="ignore"):
        low, high = stats.t.interval(0.95, len(seeds) - 1, np.mean(seeds), stats.sem(seeds))
    assert result.mean == pytest.approx(np.mean(seeds))
    if np.ptp(seeds) > 1e-9:
        assert result.interval == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_ninety_five_of_a_hundred_intervals_hold_the_true_mean(seeds: int) -> None:
    """A bootstrap of the mean holds it in 50, 74 and 84 of them."""
    draws = np.random.default_rng(seeds).normal(0.7, 0.1, (DRAWS, seeds))
    ends = np.array([estimate(list(of_seeds)).interval for of_seeds in draws])
    held = (ends[:, 0] <= 0.7) & (ends[:, 1] >= 0.7)
    assert held.mean() == pytest.approx(0.95, abs=CHANCE)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_excess_of_nothing_is_not_told_from_zero(seeds: int) -> None:
    """Splits that do nothing, in runs whose final losses vary by 0.3 %: the excess has a standard
    deviation of 1.1 %, and 95 of a hundred of its intervals hold zero."""
    rng = np.random.default_rng(seeds)
    excess, held = [], []
    for _ in range(DRAWS // 2):
        names = ["dense", *PROJECTION_ORDER, "mom"]
        final = dict(zip(names, rng.normal(1.0, 0.003, (6, seeds)), strict=True))
        gains = {name: list(100 * (1 - loss / final["dense"])) for name, loss in final.items()}
        found = synergy(gains).excess
        low, high = found.interval or (np.nan, np.nan)
        excess += found.values
        held.append(low <= 0 <= high)
    assert np.std(excess) == pytest.approx(0.3 * 14**0.5, rel=0.05)
    assert np.mean(held) == pytest.approx(0.95, abs=CHANCE * 2**0.5)


def test_interval_of_equal_seeds_has_no_width() -> None:
    assert estimate([0.7, 0.7, 0.7]).interval == (pytest.approx(0.7), pytest.approx(0.7))


def test_an_interval_ends_where_the_figure_does() -> None:
    """FLOPs to match cannot be negative; gains can."""
    result = estimate([0.49, 0.85], least=0.0)
    assert result.interval == (0.0, pytest.approx(0.67 + 12.706205 * 0.18))
    assert estimate([0.49, 0.85]).interval == pytest.approx(
        (0.67 - 12.706205 * 0.18, 0.67 + 12.706205 * 0.18)
    )


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.7]).interval is None
    assert estimate([0.7]).mean == 0.7


def test_a_seed_that_did_not_reach_leaves_no_mean_and_no_interval() -> None:
    result = estimate([0.6, 0.7, None])
    assert (result.mean, result.interval) == (None, None)
    assert result.values == (0.6, 0.7, None)
    assert estimate([None, None]).mean is None


def test_no_seeds_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])
