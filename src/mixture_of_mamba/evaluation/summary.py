"""Runs of a comparison -> its figures: what each variant ends at, and what it needs to match."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..files import write_json
from ..training.metrics import read_metrics
from .artefacts import checkpoint_of, read_artefact
from .comparison import Comparison
from .figures import Figures, NoiseBin, VariantFigures
from .intervals import Estimate, estimate
from .loss_matching import Match
from .machine import machine, versions
from .network import model_size
from .scores import read_scores

__all__ = ["METRICS", "smoothing_statement", "write_comparison"]

#: Figures of a match; the last one only where seconds were measured alone, see timing.py.
METRICS: dict[str, Callable[[Match], float | None]] = {
    "final_loss": lambda match: match.final,
    "gain_percent": lambda match: match.gain_percent,
    "relative_flops_to_match": lambda match: match.relative_flops,
    "relative_seconds_to_match": lambda match: match.relative_seconds,
}
NOT_BELOW_ZERO = {"relative_flops_to_match", "relative_seconds_to_match"}


def write_comparison(comparison: Comparison) -> Figures:
    """Write comparison.json. Machine and versions are those of the training; of a plan that an
    earlier version wrote, those of the first comparison.json of the same runs."""
    path = comparison.folder / "comparison.json"
    figures = summarise(comparison)
    before = {} if comparison.plan.basis else read_artefact(path) or {}
    if before.get("seeds") == list(figures.seeds):
        figures = replace(figures, **{k: before[k] for k in ("machine", "versions") if k in before})
    write_json(path, figures.to_json(), indent=2)
    return figures


def summarise(comparison: Comparison) -> Figures:
    """The figures of finished runs."""
    c, plan = comparison, comparison.plan
    return Figures(
        setting=plan.config.setting,
        baseline=plan.baseline,
        seeds=c.seeds,
        modalities=c.modalities,
        variants={variant: _variant(c, variant) for variant in plan.variants},
        scores=read_scores(plan, c.folder, c.seeds),
        smoothing=c.smoothing,
        smoothing_statement=smoothing_statement(c),
        times_alone=c.times,
        times_statement=times_statement(c),
        steps=plan.config.train.steps,
        command=plan.command,
        planned_seeds=plan.seeds,
        data=plan.basis.get("data", {}),
        checkpoints={
            job.name: checkpoint_of(job.folder)
            for job in plan.jobs(c.folder)
            if job.seed in c.seeds
        },
        machine=plan.basis.get("machine") or machine(),
        versions=plan.basis.get("versions") or versions(),
    )


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
    """One sentence on what ran beside the runs whose seconds were measured."""
    if comparison.times:
        return "Runs were trained one at a time, on a machine that did nothing else."
    return (
        "Seconds were measured beside other runs or other work, or nobody watched, so times to "
        "match are not claimed; --jobs 1 on an idle machine measures them."
    )


def _variant(c: Comparison, variant: str) -> VariantFigures:
    last = [read_metrics(c.run_folder(variant, seed) / "metrics.jsonl")[-1] for seed in c.seeds]
    seconds = [line["seconds"] for line in last]
    flops = last[0]["flops"] / last[0]["tokens"]
    size = model_size(
        c.run_folder(variant, c.seeds[0]) / "model",
        window=c.plan.config.data.window,
        flops_per_token=flops,
    )
    matches = {name: c.matches(variant, name) for name in c.modalities}
    by_modality = {name: _estimates(c, found) for name, found in matches.items()}
    metrics: dict[str, Mapping[str, Estimate]] = {
        key: {name: estimates[key] for name, estimates in by_modality.items()}
        for key in _metrics(c)
    }
    if variant == c.plan.baseline:  # by definition, also where its curve dips below its own end
        one = dict.fromkeys(c.modalities, estimate([1.0] * len(c.seeds)))
        metrics |= {key: one for key in metrics if key in NOT_BELOW_ZERO}
    return VariantFigures(
        parameters=size.parameters,
        active_parameters=size.active_parameters,
        flops_per_token=round(flops),
        flops_by_part=size.flops_by_part,
        metrics=metrics,
        seconds=sum(seconds) / len(seconds),
        tokens_per_second=sum(x["tokens"] for x in last) / max(sum(seconds), 1e-9),
        tokens=last[0]["tokens"],
        flops=last[0]["flops"],
        last_loss={
            n: _mean([c.curves[variant][s][n].losses[-1] for s in c.seeds]) for n in matches
        },
        by_noise_level=_by_noise_level(c, variant),
    )


def _metrics(c: Comparison) -> list[str]:
    return [key for key in METRICS if c.times or key != "relative_seconds_to_match"]


def _estimates(c: Comparison, matches: Sequence[Match]) -> dict[str, Estimate]:
    """Every metric of matches seed by seed."""
    return {
        key: estimate(
            [METRICS[key](match) for match in matches],
            least=0.0 if key in NOT_BELOW_ZERO else -math.inf,
        )
        for key in _metrics(c)
    }


def _by_noise_level(c: Comparison, variant: str) -> dict[str, list[NoiseBin]]:
    """By continuous modality, from clean to noise."""
    found: dict[str, list[NoiseBin]] = {}
    runs = (run for by_seed in c.levels.values() for run in by_seed.values())
    parts = 1 + max((part for run in runs for _, part in run), default=0)
    for (modality, part), matches in c.level_matches(variant).items():
        found.setdefault(modality, []).append(NoiseBin(part, parts, _estimates(c, matches)))
    return found


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))
