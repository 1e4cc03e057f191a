"""What is right in what was generated, and loss by noise level."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...train.metrics import read_metrics
from ..comparison import Comparison
from ..facts import QUESTIONS
from .charts import series, shown_variants
from .html import figure, section, table

__all__ = ["facts", "noise_levels"]

TASKS = {
    "text_to_image": "picture from caption",
    "image_to_text": "caption from picture",
    "speech_to_text": "caption from voice",
}


def facts(comparison: Comparison) -> str:
    """Share of digits, colours and places that are right, by task and variant, with intervals."""
    found = _judged_runs(comparison)
    if not found:
        return ""
    tables = []
    for task, title in TASKS.items():
        judged = {
            name: {seed: by_task[task] for seed, by_task in seeds.items() if task in by_task}
            for name, seeds in found.items()
        }
        if not any(judged.values()):
            continue
        rows: list[tuple[str, ...]] = [("", "seed", *QUESTIONS)]
        for name, seeds in judged.items():
            for seed, answers in seeds.items():
                rows.append((name, str(seed), *(_share(answers[q]) for q in QUESTIONS)))
        if task == "text_to_image":
            ceiling = _first(_first(found))["ceiling"]
            rows.append(("the real pictures", "", *(_share(ceiling[q]) for q in QUESTIONS)))
        tables.append(table(rows, caption=title))
    count = _first(_first(found))["examples"]
    return section(
        "Is it right?",
        *tables,
        intro=f"{count} held-out captions, the same for every run. A classifier trained on "
        "real handwriting reads the generated pictures; generated captions are parsed. Asked of "
        "every digit that should be there: is the digit, its colour, anything at its place, and "
        "all three (fact) right; of every scene: is all of it right and nothing else there. In "
        "brackets: 95 % Wilson intervals over the captions; how far runs differ, the seeds show.",
    )


def noise_levels(comparison: Comparison) -> str:
    """Loss of continuous modalities from clean to noise, at the end of training."""
    names = shown_variants(comparison.plan.variants, comparison.plan.baseline)
    found = {name: _final_levels(comparison, name) for name in names}
    drawings = []
    for modality in found[comparison.plan.baseline]:
        lines = {}
        for name in names:
            losses = found[name][modality]
            place = (np.arange(len(losses)) + 0.5) / len(losses)
            there = np.isfinite(losses)
            lines[name] = (place[there].tolist(), losses[there].tolist())
        svg = series(modality, lines, "noise level (0 clean, 1 noise)", "squared error")
        drawings.append(figure(svg, f"{modality}: validation loss by noise level"))
    if not drawings:
        return ""
    return section(
        "Loss by noise level",
        f'<div class="charts">{"".join(drawings)}</div>',
        intro="Of the vectors of continuous modalities, in tenths of all levels; the same noise "
        "for all variants; mean over seeds.",
    )


def _final_levels(comparison: Comparison, variant: str) -> dict[str, np.ndarray]:
    """By continuous modality the (levels,) losses of the last evaluation, mean over seeds; NaN
    where a level had no position."""
    by_seed: dict[str, list[list[float]]] = {}
    for seed in comparison.seeds:
        last = read_metrics(comparison.run_folder(variant, seed) / "metrics.jsonl")[-1]
        for modality, losses in last.get("noise_levels", {}).items():
            numbers = [np.nan if loss is None else loss for loss in losses]
            by_seed.setdefault(modality, []).append(numbers)
    return {modality: np.mean(rows, axis=0) for modality, rows in by_seed.items()}


def _judged_runs(comparison: Comparison) -> dict[str, dict[int, Any]]:
    """The content of facts.json by variant and seed, of the runs that have one."""
    found: dict[str, dict[int, Any]] = {}
    for variant in comparison.plan.variants:
        for seed in comparison.seeds:
            path = comparison.run_folder(variant, seed) / "facts.json"
            if path.is_file():
                found.setdefault(variant, {})[seed] = json.loads(path.read_text())
    return found


def _first(by_key: dict[Any, Any]) -> Any:
    return next(iter(by_key.values()))


def _share(found: dict[str, float]) -> str:
    share, low, high = (100 * found[key] for key in ("share", "low", "high"))
    return f"{share:.0f} % ({low:.0f}–{high:.0f})"
