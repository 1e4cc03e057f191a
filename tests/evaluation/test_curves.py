"""Reading and smoothing loss curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.evaluation.curves import Curve, read_curves, smooth, smoothing_points


def write(folder: Path, *lines: object) -> Path:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def point(step: int, loss: float | None, phase: str = "validation") -> dict[str, object]:
    return {
        "phase": phase,
        "step": step,
        "tokens": 10 * step,
        "flops": 100 * step,
        "seconds": 0.5 * step,
        "learning_rate": 1e-3,
        "loss": loss,
        "losses": {"text": loss, "image": 2.0},
    }


def test_curves_by_modality_and_phase(tmp_path: Path) -> None:
    write(tmp_path, point(1, 9.0, "train"), point(2, 3.0), point(4, 2.0))
    curve = read_curves(tmp_path)["text"]
    assert curve.flops.tolist() == [200, 400]
    assert curve.seconds.tolist() == [1.0, 2.0]
    assert curve.losses.tolist() == [3.0, 2.0]
    assert read_curves(tmp_path, "train")["text"].losses.tolist() == [9.0]


def test_points_without_a_modality_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, point(1, None), point(2, float("nan")), point(3, 1.0))
    curves = read_curves(tmp_path)
    assert curves["text"].losses.tolist() == [1.0]
    assert len(curves["image"].losses) == 3


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, point(1, 2.0), '{"phase": "val')
    assert read_curves(tmp_path)["text"].losses.tolist() == [2.0]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    write(tmp_path, point(1, 2.0), "oops\n", point(2, 2.0))
    with pytest.raises(ValueError, match="line 2"):
        read_curves(tmp_path)


def test_a_folder_without_metrics_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl is missing"):
        read_curves(tmp_path)
    with pytest.raises(ValueError, match="no validation losses"):
        read_curves(write(tmp_path, point(1, 2.0, "train")))


@pytest.mark.parametrize("points", [1, 3, 5, 31, 99])
def test_a_straight_line_stays_as_it_is(points: int) -> None:
    """No lag, in the middle or at the ends, also at uneven points."""
    x = np.cumsum(np.random.default_rng(0).uniform(0.5, 2.0, 31))
    y = 3.0 - 0.05 * x
    np.testing.assert_allclose(smooth(x, y, points), y, rtol=1e-12)


def test_noise_is_averaged_out() -> None:
    """In the middle a window of n points divides the variance by n."""
    x = np.arange(4001.0)
    noise = np.random.default_rng(0).normal(size=4001)
    assert smooth(x, noise, 9)[10:-10].std() == pytest.approx(1 / 3, rel=0.05)


@pytest.mark.parametrize(
    ("wanted", "logged", "points"), [(5, 30, 5), (5, 29, 3), (5, 12, 1), (4, 99, 3), (1, 99, 1)]
)
def test_short_curves_are_smoothed_less(wanted: int, logged: int, points: int) -> None:
    assert smoothing_points(wanted, logged) == points


def test_curves_must_go_on() -> None:
    ones = np.ones(3)
    with pytest.raises(ValueError, match="must grow"):
        Curve(ones, ones, ones)
    with pytest.raises(ValueError, match="as many losses"):
        Curve(np.arange(3.0), ones, ones[:2])
