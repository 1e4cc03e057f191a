"""What was generated in the runs of a comparison, scored; and which variants were not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ..data.digits.config import clip_share
from ..data.digits.proportions import Proportion
from ..data.digits.scoring import TASKS
from ..training.config import RunConfig
from .artefacts import read_current
from .plan import Plan, run_folder
from .variants import variant_config

__all__ = ["Answers", "Scores", "read_scores", "why_not_sampled"]

#: By question, the proportion that was right.
Answers = Mapping[str, Proportion]

_AGAIN = "its command with --judged 64 makes it"


@dataclass(frozen=True)
class Scores:
    """Scores of a comparison's runs.

    Attributes:
        examples: that every run was scored on; None where none was.
        ceiling: what the reader finds in the real images; None where none was scored.
        runs: by variant, seed (as text) and task.
        not_scored: by variant, the reason; one with scores of some of its seeds stands in both.
        left_out: by task that no run can do, the reason.
    """

    examples: int | None = None
    ceiling: Answers | None = None
    runs: Mapping[str, Mapping[str, Mapping[str, Answers]]] = field(default_factory=dict)
    not_scored: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; "facts" of comparison.json."""

        def plain(answers: Answers) -> dict[str, Any]:
            return {question: share._asdict() for question, share in answers.items()}

        return {
            "examples": self.examples,
            "ceiling": self.ceiling and plain(self.ceiling),
            "runs": {
                variant: {
                    seed: {task: plain(answers) for task, answers in by_task.items()}
                    for seed, by_task in by_seed.items()
                }
                for variant, by_seed in self.runs.items()
            },
            "not_judged": dict(self.not_scored),
            "left_out": dict(self.left_out),
        }


def read_scores(plan: Plan, folder: Path, seeds: Iterable[int]) -> Scores:
    """The scores of a comparison's runs; see scoring.score for what is counted. Those of another
    checkpoint than the run's, or of fewer captions than the others, do not count.

    Args:
        plan: of the comparison.
        folder: of the comparison; runs have their facts.json under it.
        seeds: those that count.
    """
    seeds = list(seeds)
    read = {}
    for variant, seed in product(plan.variants, seeds):
        run = run_folder(folder, variant, seed)
        read[variant, seed] = read_current(run / "facts.json", run)
    most = max((facts["examples"] for facts, _ in read.values() if facts is not None), default=0)
    ceiling: Answers | None = None
    runs: dict[str, dict[str, dict[str, Answers]]] = {}
    not_scored: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for variant in plan.variants:
        missing: dict[str, list[str]] = {}
        for seed in seeds:
            facts, reason = read[variant, seed]
            if facts is not None and facts["examples"] < most:
                reason = f"facts.json is of {facts['examples']} captions, others are of {most}"
            if facts is None or reason:
                why = f"{reason}; {_AGAIN}" if reason else _why_not_scored(plan, variant)
                missing.setdefault(why, []).append(str(seed))
                continue
            if ceiling is None and "ceiling" in facts:
                ceiling = _answers(facts["ceiling"])
            left_out.update(facts.get("left_out", {}))
            by_task = {task: _answers(facts[task]) for task in TASKS if task in facts}
            runs.setdefault(variant, {})[str(seed)] = by_task
        if missing:
            not_scored[variant] = "; ".join(
                why if len(which) == len(seeds) else f"seed {', '.join(which)}: {why}"
                for why, which in missing.items()
            )
    return Scores(most if runs else None, ceiling, runs, not_scored, left_out)


def why_not_sampled(config: RunConfig) -> str | None:
    """Why nothing is generated from a run of this config for the report; None where it is."""
    if config.model.mixer == "mamba":
        return None
    if any(m.kind == "continuous" for m in config.modalities.values()):
        return "attention keeps no state of fixed size, from which a continuous image is denoised"
    return (
        "attention keeps no state of fixed size: each token would read all tokens before it again"
    )


def _answers(plain: Mapping[str, Mapping[str, Any]]) -> Answers:
    return {question: Proportion(**share) for question, share in plain.items()}


def _why_not_scored(plan: Plan, variant: str) -> str:
    if reason := why_not_sampled(variant_config(plan.config, variant, plan.seeds[0])):
        return reason
    if plan.config.data.source != "digits":
        return "own documents have no facts to judge by; the embedded digit scenes do"
    if clip_share(plan.config.modalities) == 1:
        return "no held-out scene has facts: all are clips, which are not judged"
    return f"there is no facts.json; {_AGAIN}"
