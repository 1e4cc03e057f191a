"""Threads of a step are chosen from measured times; here the times are simulated."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mixture_of_mamba.ops.decode_step.pace import FIRST_PAUSE, IDLE, LONGEST_PAUSE, NEAR, Pace


def run(pace: Pace, steps: int, seconds: Callable[[int, int], float]) -> tuple[float, list[int]]:
    """Time of the steps, and their threads; `seconds(step, threads)` is the machine."""
    total, chosen = 0.0, []
    for step in range(steps):
        threads = pace.threads()
        took = seconds(step, threads)
        pace.took(threads, total, total + took)
        total += took
        chosen.append(threads)
    return total, chosen


def idle(step: int, threads: int) -> float:
    return 1.0 / threads


def busy(step: int, threads: int) -> float:
    return 1.0 if threads == 1 else 40.0


def test_an_idle_machine_gets_all_threads_soon() -> None:
    _, chosen = run(Pace(2), 500, idle)
    alone = FIRST_PAUSE + 1  # the first step of all is not judged
    assert chosen[:alone] == [1] * alone and set(chosen[alone:]) == {2}


def test_a_busy_machine_takes_little_more_than_one_thread() -> None:
    total, chosen = run(Pace(2), 20_000, busy)
    assert total <= 1.05 * 20_000 and chosen[-1] == 1
    assert chosen.count(2) > 5  # attempts go on


@pytest.mark.parametrize("gain", [0.96, 1.0, 1.3])
def test_threads_that_gain_nothing_are_not_kept(gain: float) -> None:
    _, chosen = run(Pace(2), 20_000, lambda step, threads: 1.0 if threads == 1 else gain)
    assert chosen.count(2) < 100


def test_a_machine_that_gets_busy_and_idle_again_is_followed() -> None:
    pace = Pace(2)
    run(pace, 1000, idle)
    total, chosen = run(pace, 1000, busy)
    assert total <= 1.3 * 1000 and chosen[-1] == 1
    _, chosen = run(pace, 2 * LONGEST_PAUSE, idle)
    assert chosen[-1] == 2


@pytest.mark.parametrize(("slow", "pauses"), [((5,), 0), ((5, 5 + 2 * NEAR), 0), ((5, 9), 1)])
def test_slow_steps_cost_a_short_pause_where_they_are_near(
    slow: tuple[int, ...], pauses: int
) -> None:
    pace = Pace(2)
    run(pace, 2000, idle)
    _, chosen = run(pace, 200, lambda step, threads: 9.0 if step in slow else idle(step, threads))
    assert chosen.count(1) == pauses * 2 * FIRST_PAUSE and chosen[-1] == 2


def test_a_slow_step_after_a_break_is_not_judged() -> None:
    """As those of somebody who is asked for a token now and then: caches are cold."""
    pace, now = Pace(2), 0.0
    for step in range(2000):
        threads = pace.threads()
        cold = step % 10 == 0
        now += 10 * IDLE if cold else 0.0
        took = 1e-3 * (9.0 if cold else idle(step, threads))
        pace.took(threads, now, now + took)
        now += took
        if step > 100:
            assert threads == 2


def test_a_machine_that_slows_down_as_a_whole_keeps_its_threads() -> None:
    """Such as a clock that falls: one thread's old time is forgotten."""
    pace = Pace(2)
    run(pace, 1000, idle)
    _, chosen = run(pace, 4000, lambda step, threads: 5 * idle(step, threads))
    assert chosen[-1] == 2


def test_an_attempt_of_callers_that_share_a_pace_ends() -> None:
    """Each may note its step before any of them looks: an attempt then has more than three."""
    pace = Pace(2)
    run(pace, FIRST_PAUSE + 1, idle)
    assert pace.threads() == 2
    pace._tried.extend([1.3, 1.3, 1.3])
    _, chosen = run(pace, 100, lambda step, threads: 1.0 if threads == 1 else 1.3)
    assert chosen.count(2) < 10


def test_with_one_thread_nothing_is_tried() -> None:
    assert set(run(Pace(1), 3000, busy)[1]) == {1}
