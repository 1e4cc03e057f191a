"""What a comparison consists of: variants x seeds, one run folder each, written down once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from ..files import read_json, write_json, write_text
from ..train.config import RunConfig
from ..train.metrics import read_metrics
from .variants import variant_config

__all__ = ["Job", "Plan", "check_plan", "read_plan", "write_plan"]

LEAST_EVALUATIONS = 30
"""Points that the loss curves of a comparison need, so that matching is not coarse."""


@dataclass(frozen=True)
class Job:
    """One run of a comparison."""

    variant: str
    seed: int
    folder: Path
    config: RunConfig

    @property
    def name(self) -> str:
        return self.folder.name

    def finished(self) -> bool:
        """Whether the run has been trained to its last step and evaluated there."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file() or not (self.folder / "model" / "config.json").is_file():
            return False
        lines = read_metrics(path)
        return bool(lines) and (
            lines[-1]["phase"] == "validation" and lines[-1]["step"] >= self.config.train.steps
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A comparison before it is run.

    Attributes:
        config: of every run, but for what the variant and the seed decide.
        variants: names, see variants.py.
        baseline: the one of them that the others are held against.
        seeds: of initial values and the order of the data; runs of a seed are compared in pairs.
        command: what the user typed.
        smoothing: points of the window that smooths the validation curves.
    """

    config: RunConfig
    variants: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    command: str
    smoothing: int = 5

    def __post_init__(self) -> None:
        for name, values in (("variants", self.variants), ("seeds", self.seeds)):
            if twice := sorted({str(v) for v in values if values.count(v) > 1}):  # type: ignore[arg-type]
                raise ValueError(f"{name} must differ; {', '.join(twice)} appears twice")
        if self.baseline not in self.variants or len(self.variants) < 2:
            raise ValueError(
                f"a comparison needs the baseline {self.baseline!r} and at least one other "
                f"variant; got {', '.join(self.variants) or 'none'}"
            )
        if not self.seeds:
            raise ValueError("a comparison needs at least one seed")
        if self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must be at least 1 (none)")
        for variant in self.variants:
            variant_config(self.config, variant, 0)  # raises where the name is wrong

    def jobs(self, out: Path) -> Iterator[Job]:
        """All runs; those of a seed stand together, so that a comparison can be read early and its
        variants meet the same load of the machine."""
        for seed in self.seeds:
            for variant in self.variants:
                config = variant_config(self.config, variant, seed)
                yield Job(variant, seed, out / f"{variant}-seed{seed}", config)

    def with_enough_points(self) -> Plan:
        """The same with validation at least LEAST_EVALUATIONS times in a run, and without samples
        on the way: they come at the end, and would take longer than so many evaluations."""
        train = self.config.train
        every = max(1, min(train.evaluate_every, train.steps // LEAST_EVALUATIONS))
        return replace(
            self,
            config=replace(self.config, train=replace(train, evaluate_every=every, samples=0)),
        )


def check_plan(plan: Plan, out: Path) -> None:
    """Hold a plan against what its folder holds already.

    A plan of which no run has begun gives way: its data could not be built, or it was stopped.

    Raises:
        ValueError: OUT holds another comparison, or another run under a name of this one; the
            fields that differ are named.
    """
    if (out / "plan.json").is_file():
        before = read_plan(out)
        changed = before.config.differences(plan.config)
        begun = any(job.folder.is_dir() for job in before.jobs(out))
        if begun and (changed or before.baseline != plan.baseline):
            what = "; ".join(changed) or f"baseline {before.baseline} -> {plan.baseline}"
            raise ValueError(
                f"{out} already holds another comparison ({what}); give --out another name, or the "
                "same settings to go on with it"
            )
    for job in plan.jobs(out):
        _check_folder(job)


def write_plan(plan: Plan, out: Path) -> None:
    """Write OUT/plan.json, and one YAML file per run under OUT/configs/.

    Raises:
        ValueError: see check_plan.
        WriteError: the folder could not be written.
    """
    check_plan(plan, out)
    for job in plan.jobs(out):
        path = out / "configs" / f"{job.name}.yaml"
        write_text(path, yaml.safe_dump(job.config.to_dict(), sort_keys=False))
    plain = asdict(plan) | {"config": plan.config.to_dict()}
    write_json(out / "plan.json", plain, indent=2)


def read_plan(out: Path) -> Plan:
    """The plan of a comparison folder.

    Raises:
        FileNotFoundError: the folder holds no comparison.
    """
    path = out / "plan.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{out} holds no comparison (plan.json is missing); give the --out folder of "
            "mom compare, mom ablate or mom demo"
        )
    plain = read_json(path)
    plain["config"] = RunConfig.from_dict(plain["config"], str(path))
    for name in ("variants", "seeds"):
        plain[name] = tuple(plain[name])
    return Plan(**plain)


def _check_folder(job: Job) -> None:
    path = job.folder / "config.yaml"
    if not path.is_file():
        return
    before = RunConfig.from_dict(yaml.safe_load(path.read_text()), str(path))
    if changed := before.differences(job.config):
        raise ValueError(
            f"{job.folder} holds a run of another configuration ({'; '.join(changed)}); give --out "
            "another name"
        )
