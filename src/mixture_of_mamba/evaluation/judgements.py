"""What was judged in the runs of a comparison, and which variants were not, and why."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from ..training.config import RunConfig
from .artefacts import read_made
from .plan import Plan
from .variants import variant_config

__all__ = ["TASKS", "judgements", "why_not_sampled"]

TASKS = {
    "text_to_image": "picture from caption",
    "image_to_text": "caption from picture",
    "speech_to_text": "caption from voice",
}
"""Tasks of facts.json, and what tables call them."""


_AGAIN = "its command with --judged 64 makes it"


def judgements(plan: Plan, folder: Path, seeds: Iterable[int]) -> dict[str, Any]:
    """The facts of a comparison's runs; see facts.judge for what is counted.

    Args:
        plan: of the comparison.
        folder: of the comparison; runs have their facts.json under it.
        seeds: those that count.

    Returns:
        {"examples": n or None, "ceiling": {question: share} or None,
        "runs": {variant: {seed as text: {task: {question: share}}}},
        "not_judged": {variant: reason}}, where a share is {"correct", "total", "share", "low",
        "high"}. A variant with facts of some of its seeds stands in both. Facts of another
        checkpoint than the run's, or of fewer captions than the others, do not count.
    """
    found: dict[str, Any] = {"examples": None, "ceiling": None, "runs": {}, "not_judged": {}}
    seeds = list(seeds)
    read = {}
    for variant, seed in product(plan.variants, seeds):
        run = folder / f"{variant}-seed{seed}"
        read[variant, seed] = read_made(run / "facts.json", run)
    most = max((facts["examples"] for facts, _ in read.values() if facts is not None), default=0)
    for variant in plan.variants:
        missing: dict[str, list[str]] = {}
        for seed in seeds:
            facts, reason = read[variant, seed]
            if facts is not None and facts["examples"] < most:
                reason = f"facts.json is of {facts['examples']} captions, others are of {most}"
            if facts is None or reason:
                why = f"{reason}; {_AGAIN}" if reason else _why_not_judged(plan, variant)
                missing.setdefault(why, []).append(str(seed))
                continue
            found["examples"], found["ceiling"] = most, found["ceiling"] or facts.get("ceiling")
            by_task = {task: facts[task] for task in TASKS if task in facts}
            found["runs"].setdefault(variant, {})[str(seed)] = by_task
        if missing:
            found["not_judged"][variant] = "; ".join(
                why if len(which) == len(seeds) else f"seed {', '.join(which)}: {why}"
                for why, which in missing.items()
            )
    return found


def why_not_sampled(config: RunConfig) -> str | None:
    """Why nothing is generated from a run of this config for the report; None where it is."""
    if config.model.mixer == "mamba":
        return None
    if any(kind == "continuous" for _, kind in config.data.modalities):
        return "attention keeps no state of fixed size, from which a continuous image is denoised"
    return "attention keeps no state of fixed size: each token would read all tokens before it anew"


def _why_not_judged(plan: Plan, variant: str) -> str:
    if reason := why_not_sampled(variant_config(plan.config, variant, plan.seeds[0])):
        return reason
    if plan.config.data.source != "digits":
        return "own documents have no facts to judge by; the embedded digit scenes do"
    return f"there is no facts.json; {_AGAIN}"
