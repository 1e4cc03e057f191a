"""Properties of relative FLOPs to match."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixture_of_mamba.evaluation.curves import Curve
from mixture_of_mamba.evaluation.loss_matching import first_crossing, match_loss

positive = st.floats(0.1, 10.0)
POINTS = st.sampled_from([1, 3, 5])


@st.composite
def falling(draw: st.DrawFn) -> Curve:
    """A strictly falling curve at uneven points."""
    n = draw(st.integers(8, 40))
    steps = draw(st.lists(positive, min_size=n, max_size=n))
    drops = draw(st.lists(st.floats(0.01, 1.0), min_size=n, max_size=n))
    losses = 1.0 + np.cumsum(drops[::-1])[::-1]
    return Curve(np.cumsum(steps), 3.0 * np.cumsum(steps), losses)


def power_law(factor: float = 1.0, shift: float = 0.0, n: int = 400) -> Curve:
    """L = 1 + (flops / factor)^-0.5 + shift, at n points up to 100."""
    flops = np.linspace(1.0, 100.0, n)
    return Curve(flops, 2.0 * flops, 1.0 + (flops / factor) ** -0.5 + shift)


@given(falling())
def test_a_falling_run_matches_itself_at_exactly_one(curve: Curve) -> None:
    match = match_loss(curve, curve)
    assert match.relative_flops == 1.0
    assert match.relative_seconds == 1.0
    assert match.gain_percent == 0.0


@given(falling(), POINTS)
def test_smoothing_makes_no_run_need_more_than_itself(curve: Curve, points: int) -> None:
    match = match_loss(curve, curve, points=points)
    assert match.relative_flops is not None and match.relative_flops <= 1.0
    assert match.gain_percent == 0.0


@given(falling(), falling(), positive, positive, POINTS)
def test_units_do_not_matter(
    baseline: Curve, variant: Curve, flops: float, loss: float, points: int
) -> None:
    def scaled(curve: Curve) -> Curve:
        return Curve(curve.flops * flops, curve.seconds * 7, curve.losses * loss)

    plain = match_loss(baseline, variant, points=points)
    other = match_loss(scaled(baseline), scaled(variant), points=points)
    assert other.gain_percent == pytest.approx(plain.gain_percent, rel=1e-6, abs=1e-6)
    margin = np.abs(variant.smoothed(points).losses - plain.target).min()
    if margin > 1e-9:  # a tie may fall on either side of rounding
        assert (other.flops is None) == (plain.flops is None)
        if other.flops is not None:
            assert other.relative_flops == pytest.approx(plain.relative_flops, rel=1e-6)
            assert other.relative_seconds == pytest.approx(plain.relative_seconds, rel=1e-6)


@given(falling(), st.floats(0.2, 1.0), POINTS)
def test_a_run_that_learns_faster_by_a_factor_gives_the_factor(
    curve: Curve, factor: float, points: int
) -> None:
    """The same losses after `factor` times the FLOPs."""
    fast = replace(curve, flops=factor * curve.flops)
    itself = match_loss(curve, curve, points=points).relative_flops
    ratio = match_loss(curve, fast, points=points).relative_flops
    assert ratio is not None and itself is not None
    assert ratio == pytest.approx(factor * itself, rel=1e-6)


@pytest.mark.parametrize("points", [1, 5, 9])
@pytest.mark.parametrize("factor", [0.35, 0.6, 0.9])
def test_power_law_logged_on_the_same_grid_gives_the_factor(factor: float, points: int) -> None:
    match = match_loss(power_law(), power_law(factor), points=points)
    assert match.relative_flops == pytest.approx(factor, rel=2e-3)
    assert match.relative_seconds == pytest.approx(factor, rel=2e-3)


@pytest.mark.parametrize("points", [5, 9])
def test_power_law_with_noise_gives_nearly_the_factor(points: int) -> None:
    """Thirty evaluations with noise of a tenth of a per cent: within three points of the truth."""
    errors = []
    for seed in range(50):
        noise = np.random.default_rng(seed).normal(0, 0.001, (2, 30))
        base, fast = power_law(n=30), power_law(0.6, n=30)
        base = replace(base, losses=base.losses + noise[0])
        fast = replace(fast, losses=fast.losses + noise[1])
        ratio = match_loss(base, fast, points=points).relative_flops
        assert ratio is not None
        errors.append(ratio - 0.6)
    assert abs(np.mean(errors)) < 0.03
    assert np.std(errors) < 0.06


@given(falling(), st.floats(1e-6, 1.0), POINTS)
def test_a_run_that_stays_above_is_not_reached(curve: Curve, gap: float, points: int) -> None:
    above = replace(curve, losses=curve.losses - curve.losses[-1] + 50.0 + gap)
    floor = replace(curve, losses=np.full_like(curve.losses, 50.0))
    match = match_loss(floor, above)
    assert match.relative_flops is None and match.relative_seconds is None
    assert match.gain_percent < 0


def test_a_longer_run_of_the_variant_may_need_more_than_the_baseline_spent() -> None:
    flops = np.linspace(1.0, 300.0, 1200)
    slow = Curve(flops, flops, 1.0 + (flops / 2.0) ** -0.5)
    assert match_loss(power_law(), slow).relative_flops == pytest.approx(2.0, rel=1e-3)


def test_crossing_is_linear_between_points() -> None:
    x, y = np.array([0.0, 2.0, 4.0]), np.array([3.0, 2.0, 1.0])
    assert first_crossing(x, y, 1.5) == 3.0
    assert first_crossing(x, y, 2.0) == 2.0
    assert first_crossing(x, y, 5.0) == 0.0
    assert first_crossing(x, y, 0.5) is None


def test_the_first_crossing_counts() -> None:
    x = np.arange(5.0)
    assert first_crossing(x, np.array([3.0, 1.0, 3.0, 1.0, 0.0]), 2.0) == 0.5
