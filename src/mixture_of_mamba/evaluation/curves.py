"""Loss curves of runs: what metrics.jsonl says, as arrays, and how they are smoothed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..training.metrics import read_metrics

__all__ = ["Array", "Curve", "read_curves", "read_level_curves", "smooth", "smoothing_points"]

Array = NDArray[np.float64]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Curve:
    """Loss of one modality along one run; all arrays (n,), in the order of training.

    Attributes:
        flops: spent on training so far.
        seconds: spent on training so far, without evaluation.
        losses: nats per token (mean squared error where the modality is continuous).
    """

    flops: Array
    seconds: Array
    losses: Array

    def __post_init__(self) -> None:
        if not len(self.flops) == len(self.seconds) == len(self.losses) > 0:
            raise ValueError(
                f"a curve needs as many losses as FLOPs and seconds, and at least one; got "
                f"{len(self.losses)}, {len(self.flops)} and {len(self.seconds)}"
            )
        if np.any(np.diff(self.flops) <= 0):
            raise ValueError("the FLOPs of a curve must grow from point to point")

    def smoothed(self, points: int) -> Curve:
        """The same curve with its losses smoothed; see smooth."""
        return Curve(self.flops, self.seconds, smooth(self.flops, self.losses, points))


def smoothing_points(wanted: int, logged: int) -> int:
    """Points of a smoothing window: what was asked for, but at most a sixth of the curve, so that a
    short curve is not flattened; odd."""
    points = min(wanted, logged // 6)
    return max(1, points - 1 + points % 2)


def smooth(x: Array, y: Array, points: int) -> Array:
    """Each point's value on the straight line that best fits its `points` neighbours.

    Least squares. Unlike a trailing mean it does not lag behind a falling curve, in the middle or
    at its end; a lag makes a variant look later than it is, the more the faster its loss falls.

    Args:
        x, y: (n,) abscissa and values.
        points: odd width of the window, >= 1; at the ends the window is moved inwards.
    """
    points = min(points, len(x))
    if points < 3:
        return y.copy()
    out = np.empty_like(y)
    for i in range(len(x)):
        start = min(max(i - points // 2, 0), len(x) - points)
        xs, ys = x[start : start + points], y[start : start + points]
        centred = xs - xs.mean()
        slope = (centred * ys).sum() / (centred * centred).sum()
        out[i] = ys.mean() + slope * (x[i] - xs.mean())
    return out


def read_curves(folder: Path, phase: str = "validation") -> dict[str, Curve]:
    """Curves of a run by modality.

    Args:
        folder: of the run.
        phase: "validation" or "train".

    Raises:
        FileNotFoundError, ValueError: no metrics, or none of this phase.
    """
    curves = _read(folder, phase, lambda line: line["losses"])
    if not curves:
        raise ValueError(f"{folder}/metrics.jsonl has no {phase} losses; did the run get that far?")
    return curves


def read_level_curves(folder: Path) -> dict[tuple[str, int], Curve]:
    """Validation curves of continuous modalities by (modality, part of the noise levels), from
    clean to noise; none where a run has no continuous modality, or a part no position.

    Raises:
        FileNotFoundError: no metrics.
    """
    return _read(
        folder,
        "validation",
        lambda line: {
            (name, part): loss
            for name, losses in line.get("noise_levels", {}).items()
            for part, loss in enumerate(losses)
        },
    )


def _read(
    folder: Path, phase: str, losses: Callable[[dict[str, Any]], Mapping[Key, float | None]]
) -> dict[Key, Curve]:
    if not (folder / "metrics.jsonl").is_file():
        raise FileNotFoundError(f"{folder} is no run: metrics.jsonl is missing")
    points: dict[Key, list[tuple[float, float, float]]] = {}
    for line in read_metrics(folder / "metrics.jsonl"):
        if line["phase"] != phase:
            continue
        for key, loss in losses(line).items():
            if loss is not None and np.isfinite(loss):  # a batch may lack a modality
                point = (float(line["flops"]), float(line["seconds"]), float(loss))
                points.setdefault(key, []).append(point)
    return {key: Curve(*np.array(rows).T) for key, rows in points.items()}
