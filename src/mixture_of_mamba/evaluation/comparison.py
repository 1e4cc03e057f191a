"""The finished runs of a comparison folder: its plan and its loss curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .curves import Curve, read_curves, read_level_curves, smoothing_points
from .loss_matching import Match, match_loss
from .plan import Plan, check_runs, read_plan, run_folder
from .timing import measured_alone

__all__ = ["Comparison", "load_comparison"]

Key = TypeVar("Key")


@dataclass(frozen=True)
class Comparison:
    """The finished runs of a comparison.

    Attributes:
        plan: what was to be run.
        folder: where it lies.
        seeds: those of which every variant has finished.
        curves: validation curves by variant, seed and modality.
        levels: the same of continuous modalities, by (modality, part of the noise levels).
        smoothing: points of the smoothing window.
        times: whether seconds were measured alone, so that times can be compared.
    """

    plan: Plan
    folder: Path
    seeds: tuple[int, ...]
    curves: Mapping[str, Mapping[int, Mapping[str, Curve]]]
    levels: Mapping[str, Mapping[int, Mapping[tuple[str, int], Curve]]]
    smoothing: int
    times: bool

    @property
    def modalities(self) -> list[str]:
        """Names in the order of their ids."""
        return list(self.curves[self.plan.baseline][self.seeds[0]])

    def run_folder(self, variant: str, seed: int) -> Path:
        return run_folder(self.folder, variant, seed)

    def matches(self, variant: str, modality: str) -> list[Match]:
        """The variant against the baseline, seed by seed."""
        return self._matches(self.curves, variant, modality)

    def level_matches(self, variant: str) -> dict[tuple[str, int], list[Match]]:
        """The same by (continuous modality, part of the noise levels), from clean to noise; parts
        without a position in some run are omitted."""
        runs = [by_seed[s] for by_seed in self.levels.values() for s in self.seeds]
        keys = sorted(set(runs[0]).intersection(*runs[1:]))
        return {key: self._matches(self.levels, variant, key) for key in keys}

    def _matches(
        self, curves: Mapping[str, Mapping[int, Mapping[Key, Curve]]], variant: str, key: Key
    ) -> list[Match]:
        base = curves[self.plan.baseline]
        return [
            match_loss(base[seed][key], curves[variant][seed][key], points=self.smoothing)
            for seed in self.seeds
        ]


def load_comparison(folder: Path) -> Comparison:
    """Read the plan and the logs of a comparison folder.

    Raises:
        FileNotFoundError: no comparison, or no seed of which all variants have finished.
        ValueError: a run is not of this comparison: it has other settings or other data.
    """
    plan = read_plan(folder)
    jobs = list(plan.jobs(folder))
    done = {(job.variant, job.seed) for job in jobs if job.finished()}
    seeds = tuple(s for s in plan.seeds if all((v, s) in done for v in plan.variants))
    if not seeds:
        left = [job.name for job in jobs if (job.variant, job.seed) not in done]
        raise FileNotFoundError(
            f"{folder} has no seed of which all variants have finished; still to do: "
            f"{', '.join(left)}; run its command again to go on: {plan.command}"
        )
    check_runs(plan, [job for job in jobs if job.seed in seeds])
    curves = _of_runs(folder, plan.variants, seeds, read_curves)
    levels = _of_runs(folder, plan.variants, seeds, read_level_curves)
    logged = min(
        len(curve.flops)
        for runs in curves.values()
        for run in runs.values()
        for curve in run.values()
    )
    points = smoothing_points(plan.smoothing, logged)
    names = [job.name for job in jobs if job.seed in seeds]
    return Comparison(plan, folder, seeds, curves, levels, points, measured_alone(folder, names))


def _of_runs(
    folder: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    read: Callable[[Path], dict[Key, Curve]],
) -> dict[str, dict[int, dict[Key, Curve]]]:
    return {v: {s: read(run_folder(folder, v, s)) for s in seeds} for v in variants}
