"""Run folders -> comparison.json: what each variant ends at, and the FLOPs it needs to match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..files import read_json, write_json
from ..models import ModelConfig, MultimodalModel
from ..models.flops import flops_breakdown
from ..training.metrics import read_metrics
from .artefacts import checkpoint_of, read_artefact
from .curves import Curve, read_curves, read_level_curves, smoothing_points
from .intervals import Estimate, estimate
from .judgements import judgements
from .loss_matching import Match, match_loss
from .machine import machine, versions
from .plan import Plan, check_runs, read_plan
from .timing import measured_alone

__all__ = ["Comparison", "load_comparison", "smoothing_statement", "summary", "write_comparison"]

Key = TypeVar("Key")
FIGURES: dict[str, Callable[[Match], float | None]] = {
    "final_loss": lambda m: m.final,
    "gain_percent": lambda m: m.gain_percent,
    "relative_flops_to_match": lambda m: m.relative_flops,
    "relative_seconds_to_match": lambda m: m.relative_seconds,
}
"""The last one only where seconds were measured alone; see timing.py."""
NOT_BELOW_ZERO = {"relative_flops_to_match", "relative_seconds_to_match"}


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
        return self.folder / f"{variant}-seed{seed}"

    def model_config(self, variant: str) -> ModelConfig:
        """The network of a variant."""
        path = self.run_folder(variant, self.seeds[0]) / "model" / "config.json"
        return ModelConfig.from_dict(read_json(path))

    def matches(self, variant: str, modality: str) -> list[Match]:
        """The variant against the baseline, seed by seed."""
        return self._matches(self.curves, variant, modality)

    def level_matches(self, variant: str) -> dict[tuple[str, int], list[Match]]:
        """The same by (continuous modality, part of the noise levels), from clean to noise; parts
        without a position in some run are left out."""
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
    return {v: {s: read(folder / f"{v}-seed{s}") for s in seeds} for v in variants}


def smoothing_statement(comparison: Comparison) -> str:
    """One sentence on how losses were smoothed."""
    points = comparison.smoothing
    if points == 1:
        return "Validation losses are taken as they are, without smoothing."
    return (
        f"Validation losses are smoothed by a straight line fitted to {points} neighbouring "
        "evaluations, the same for all variants, and are linear between evaluations."
    )


def times_statement(comparison: Comparison) -> str:
    """One sentence on what seconds were measured beside."""
    if comparison.times:
        return "Runs were trained one at a time, on a machine that did nothing else."
    return (
        "Seconds were measured beside other runs or other work, or nobody watched, so times to "
        "match are not claimed; --jobs 1 on an idle machine measures them."
    )


def summary(comparison: Comparison) -> dict[str, Any]:
    """The content of comparison.json; None stands for "not reached"."""
    c = comparison
    return {
        "setting": c.plan.config.data.setting,
        "baseline": c.plan.baseline,
        "seeds": list(c.seeds),
        "modalities": c.modalities,
        "variants": {variant: _variant(c, variant) for variant in c.plan.variants},
        "facts": judgements(c.plan, c.folder, c.seeds),
        "smoothing": {
            "phase": "validation",
            "points": c.smoothing,
            "statement": smoothing_statement(c),
        },
        "times": {"alone": c.times, "statement": times_statement(c)},
        "steps": c.plan.config.train.steps,
        "command": c.plan.command,
        "planned_seeds": list(c.plan.seeds),
        "data": c.plan.basis.get("data", {}),
        "checkpoints": {
            job.name: checkpoint_of(job.folder)
            for job in c.plan.jobs(c.folder)
            if job.seed in c.seeds
        },
        "machine": c.plan.basis.get("machine") or machine(),
        "versions": c.plan.basis.get("versions") or versions(),
    }


def write_comparison(comparison: Comparison) -> dict[str, Any]:
    """Write comparison.json. Machine and versions are those of the training; of a plan that an
    earlier version wrote, those of the first comparison.json of the same runs."""
    path = comparison.folder / "comparison.json"
    plain = summary(comparison)
    before = {} if comparison.plan.basis else read_artefact(path) or {}
    if before.get("seeds") == plain["seeds"]:
        plain |= {k: before[k] for k in ("machine", "versions") if k in before}
    write_json(path, plain, indent=2)
    return plain


def _variant(c: Comparison, variant: str) -> dict[str, Any]:
    config = c.model_config(variant)
    with torch.device("meta"):
        model = MultimodalModel(config)
    last = [_spent(c.run_folder(variant, seed)) for seed in c.seeds]
    seconds = [line["seconds"] for line in last]
    flops = last[0]["flops"] / last[0]["tokens"]
    matches = {name: c.matches(variant, name) for name in c.modalities}
    by_modality = {name: _estimates(c, found) for name, found in matches.items()}
    figures = {
        key: {name: estimates[key] for name, estimates in by_modality.items()}
        for key in _figures(c)
    }
    if variant == c.plan.baseline:  # by definition, also where its curve dips below its own end
        one = dict.fromkeys(c.modalities, estimate([1.0] * len(c.seeds)))
        figures |= {key: one for key in figures if key in NOT_BELOW_ZERO}
    return {
        "parameters": model.parameter_count(),
        "active_parameters": model.parameter_count(active=True),
        "flops_per_token": round(flops),
        "flops_by_part": _by_part(config, c.plan.config.data.window, flops),
        **{key: {n: e.mean for n, e in by.items()} for key, by in figures.items()},
        "seconds": sum(seconds) / len(seconds),
        "tokens_per_second": sum(x["tokens"] for x in last) / max(sum(seconds), 1e-9),
        "tokens": last[0]["tokens"],
        "flops": last[0]["flops"],
        "last_loss": {
            n: _mean([c.curves[variant][s][n].losses[-1] for s in c.seeds]) for n in matches
        },
        "intervals": {
            key: {n: None if e.interval is None else list(e.interval) for n, e in by.items()}
            for key, by in figures.items()
        },
        "by_seed": {key: {n: list(e.values) for n, e in by.items()} for key, by in figures.items()},
        "by_noise_level": _by_noise_level(c, variant),
    }


def _figures(c: Comparison) -> list[str]:
    return [key for key in FIGURES if c.times or key != "relative_seconds_to_match"]


def _estimates(c: Comparison, matches: Sequence[Match]) -> dict[str, Estimate]:
    """Every figure of matches seed by seed."""
    return {
        key: estimate(
            [FIGURES[key](match) for match in matches],
            least=0.0 if key in NOT_BELOW_ZERO else -math.inf,
        )
        for key in _figures(c)
    }


def _by_noise_level(c: Comparison, variant: str) -> dict[str, list[dict[str, Any]]]:
    """By continuous modality: the parts of the noise levels from clean to noise, with the figures
    of each, their intervals and values by seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    runs = (run for by_seed in c.levels.values() for run in by_seed.values())
    parts = 1 + max((part for run in runs for _, part in run), default=0)
    for (modality, part), matches in c.level_matches(variant).items():
        figures = _estimates(c, matches)
        line: dict[str, Any] = {"part": part, "parts": parts} | {
            key: e.mean for key, e in figures.items()
        }
        line["intervals"] = {k: e.interval and list(e.interval) for k, e in figures.items()}
        line["by_seed"] = {k: list(e.values) for k, e in figures.items()}
        found.setdefault(modality, []).append(line)
    return found


def _by_part(config: ModelConfig, window: int, total: float) -> dict[str, float]:
    """FLOPs of a token by part; the share of continuous tokens is what the run's total says."""
    parts = flops_breakdown(config, window=window)
    if "continuous maps" in parts:
        del parts["continuous maps"]
        parts["continuous maps"] = total - sum(parts.values())
    return parts


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


def _spent(folder: Path) -> dict[str, Any]:
    """The last line of a run: what it spent."""
    return read_metrics(folder / "metrics.jsonl")[-1]
