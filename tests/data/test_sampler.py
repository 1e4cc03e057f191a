"""The schedule: every window once a pass, a function of the step, divided between ranks."""

from __future__ import annotations

import numpy as np
import pytest

from mixture_of_mamba.data.sampler import ShuffledSampler


def test_every_window_comes_once_in_a_pass() -> None:
    schedule = ShuffledSampler(12, seed=5)
    for epoch in range(3):
        seen = np.concatenate([schedule.indices(epoch * 3 + i, 4) for i in range(3)])
        np.testing.assert_array_equal(np.sort(seen), np.arange(12))


def test_passes_differ_and_batches_may_span_them() -> None:
    schedule = ShuffledSampler(10, seed=0)
    stream = np.concatenate([schedule.indices(step, 7) for step in range(10)])
    passes = stream[:70].reshape(7, 10)
    for row in passes:
        np.testing.assert_array_equal(np.sort(row), np.arange(10))
    assert len({tuple(row) for row in passes}) > 1


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    one, fresh = ShuffledSampler(100, seed=1), ShuffledSampler(100, seed=1)
    for step in range(40):
        late = one.indices(step, 8)
    np.testing.assert_array_equal(late, fresh.indices(39, 8))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_divide_what_one_would_see(world: int) -> None:
    schedule = ShuffledSampler(30, seed=2)
    for step in range(9):
        parts = [schedule.indices(step, 8 // world, rank, world) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), schedule.indices(step, 8))


def test_seeds_differ() -> None:
    assert not np.array_equal(
        ShuffledSampler(50, 0).indices(0, 50), ShuffledSampler(50, 1).indices(0, 50)
    )


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ShuffledSampler(0)
    with pytest.raises(ValueError, match="rank is 2"):
        ShuffledSampler(5).indices(0, 1, rank=2, world=2)
