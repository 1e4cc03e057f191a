"""What a comparison consists of: variants x seeds, one run folder each, written down once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..files import read_json, write_json, write_text
from ..training.config import RECORDING, RunConfig
from ..training.metrics import read_metrics
from ..training.model_settings import freeze_as_recorded
from ..training.runs import read_config
from .basis import basis_differences, joined
from .variants import variant_config, variant_fields

__all__ = ["Job", "Plan", "check_plan", "check_runs", "read_plan", "run_folder", "write_plan"]

#: Points that the loss curves of a comparison need, so that matching is not coarse.
LEAST_EVALUATIONS = 30


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
        baseline: the one of them that the others are compared with.
        seeds: of initial values and the order of the data; runs of a seed are compared in pairs.
        command: what the user typed.
        smoothing: points of the window that smooths the validation curves.
        basis: what figures depend on besides, see basis.py; empty before data is built, and in
            folders of earlier versions.
    """

    config: RunConfig
    variants: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    command: str
    smoothing: int = 5
    basis: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in (("variants", self.variants), ("seeds", self.seeds)):
            if twice := sorted({str(v) for v in values if values.count(v) > 1}):  # type: ignore[arg-type]
                raise ValueError(f"{name} must differ; {', '.join(twice)} appears twice")
        for variant in (self.baseline, *self.variants):
            variant_fields(variant)  # raises where the name is wrong
        if self.baseline not in self.variants or len(self.variants) < 2:
            raise ValueError(
                f"a comparison needs the baseline {self.baseline!r} and at least one other "
                f"variant; the variants are {', '.join(self.variants) or 'none'}"
            )
        if not self.seeds:
            raise ValueError("a comparison needs at least one seed")
        if self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must be at least 1 (none)")
        for variant in self.variants:
            variant_config(self.config, variant, 0)  # raises where the model cannot be

    def jobs(self, out: Path) -> Iterator[Job]:
        """All runs, seed by seed, so that a comparison can be read early and its variants meet the
        same load of the machine."""
        for seed in self.seeds:
            for variant in self.variants:
                config = variant_config(self.config, variant, seed)
                yield Job(variant, seed, run_folder(out, variant, seed), config)

    def resolved(self) -> Plan:
        """The same with validation at least LEAST_EVALUATIONS times in a run, without samples on
        the way (they come at the end, and would take longer than so many evaluations), and on the
        device that "auto" is here."""
        train = self.config.train
        every = max(1, min(train.evaluate_every, train.steps // LEAST_EVALUATIONS))
        train = replace(train, evaluate_every=every, samples=0, device=train.resolved_device)
        return replace(self, config=replace(self.config, train=train))

    def differences(self, other: Plan) -> list[str]:
        """What figures depend on and `other` has otherwise, as "field: mine -> theirs"."""
        mine, theirs = (variant_config(plan.config, plan.baseline, 0) for plan in (self, other))
        changed = mine.differences(theirs, RECORDING)
        if self.baseline != other.baseline:
            changed = [f"baseline: {self.baseline} -> {other.baseline}"]
        if other.basis:
            changed += basis_differences(self.basis, other.basis)
        return changed


def run_folder(out: Path, variant: str, seed: int) -> Path:
    """Where a run of the comparison in `out` lies."""
    return out / f"{variant}-seed{seed}"


def check_plan(plan: Plan, out: Path) -> None:
    """Validate a plan against what its folder holds already.

    A plan of which no run has begun gives way: its data could not be built, or it was stopped.

    Raises:
        ValueError: OUT holds another comparison, or another run under a name of this one; what
            differs is named.
    """
    if (before := _begun(out)) and (changed := before.differences(plan)):
        raise ValueError(
            f"{out} already holds another comparison ({'; '.join(changed)}); give --out another "
            "name, or the same settings, data and versions to go on with it"
        )
    check_runs(plan, plan.jobs(out))


def check_runs(plan: Plan, jobs: Iterable[Job]) -> None:
    """Validate runs against the plan that they should be of.

    Raises:
        ValueError: a run has other settings, or was trained on other data than the rest.
    """
    digests = plan.basis.get("data")
    for job in jobs:
        if (job.folder / "config.yaml").is_file():
            run = read_config(job.folder)
            # what the plan leaves open, a run takes from the model that it starts from
            freeze = freeze_as_recorded(job.config.model.freeze, run.model.freeze)
            wanted = replace(job.config, model=replace(job.config.model, freeze=freeze))
            if changed := wanted.differences(run, RECORDING):
                raise ValueError(
                    f"{job.folder} holds a run of another configuration ({'; '.join(changed)}), "
                    "which cannot be compared with the others; move it away, or give --out another "
                    "name"
                )
        if (path := job.folder / "data.json").is_file():
            own = read_json(path)["digests"]
            digests = digests or own
            if other := [what for what in digests if own.get(what) != digests[what]]:
                raise ValueError(
                    f"{job.folder} was trained on other data than the rest of the comparison "
                    f"({', '.join(other)}); move it away, or give --out another name"
                )


def write_plan(plan: Plan, out: Path) -> None:
    """Write OUT/plan.json, and one YAML file per run under OUT/configs/.

    Raises:
        ValueError: see check_plan.
        WriteError: the folder could not be written.
    """
    check_plan(plan, out)
    if plan.basis and (before := _begun(out)):
        plan = replace(plan, basis=joined(before.basis, plan.basis))
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
            f"{out} holds no comparison (plan.json is missing); give "
            + (
                f"{out.parent}, of which this is a run"
                if (out.parent / "plan.json").is_file()
                else "the --out folder of mom compare, mom ablate or mom demo"
            )
        )
    plain = read_json(path)
    plain["config"] = RunConfig.from_dict(plain["config"], str(path))
    for name in ("variants", "seeds"):
        plain[name] = tuple(plain[name])
    return Plan(**plain)


def _begun(out: Path) -> Plan | None:
    """The plan of a folder in which a run has begun."""
    if not (out / "plan.json").is_file():
        return None
    plan = read_plan(out)
    return plan if any(job.folder.is_dir() for job in plan.jobs(out)) else None
