"""Means and intervals over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture_of_mamba.evaluate.intervals import estimate, median_coverage

values = st.lists(st.floats(0.1, 2.0), min_size=2, max_size=6)


@given(values)
def test_interval_holds_the_mean_and_stays_within_the_seeds(seeds: list[float]) -> None:
    result = estimate(seeds, resamples=500)
    assert result.interval is not None and result.mean is not None
    low, high = result.interval
    assert low is not None and high is not None
    assert min(seeds) - 1e-9 <= low <= result.mean + 1e-9
    assert result.mean - 1e-9 <= high <= max(seeds) + 1e-9


def test_interval_of_equal_seeds_has_no_width() -> None:
    assert estimate([0.7, 0.7, 0.7]).interval == (pytest.approx(0.7), pytest.approx(0.7))


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.7]).interval is None
    assert estimate([0.7]).mean == 0.7


def test_a_seed_that_did_not_reach_opens_the_interval() -> None:
    result = estimate([0.6, 0.7, None])
    assert result.mean is None
    assert result.reached == 2
    assert result.interval is not None
    low, high = result.interval
    assert low is not None and 0.6 <= low <= 0.7
    assert high is None


def test_no_seed_reached() -> None:
    result = estimate([None, None])
    assert (result.mean, result.interval, result.reached) == (None, (None, None), 0)


def test_no_seeds_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])


def test_bootstrap_of_many_seeds_is_the_standard_error() -> None:
    numbers = np.random.default_rng(1).normal(0.7, 0.1, 200)
    low, high = estimate(list(numbers)).interval or (None, None)
    assert low is not None and high is not None
    assert (high - low) / 2 == pytest.approx(1.96 * numbers.std() / 200**0.5, rel=0.05)


@pytest.mark.parametrize(("seeds", "coverage"), [(1, 0.0), (2, 0.5), (3, 0.75), (5, 0.9375)])
def test_range_of_the_seeds_holds_the_median_that_often(seeds: int, coverage: float) -> None:
    assert median_coverage(seeds) == coverage
    draws = np.random.default_rng(2).normal(size=(20_000, seeds))
    held = (draws.min(1) <= 0) & (draws.max(1) >= 0)
    assert held.mean() == pytest.approx(coverage, abs=0.01)
