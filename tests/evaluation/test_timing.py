"""Which runs were alone on the machine while they were trained."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest

from mixture_of_mamba.evaluation import timing
from mixture_of_mamba.evaluation.plan import Job
from mixture_of_mamba.evaluation.timing import measured_alone, recording_isolation
from tests.factories.runs import make_plan, write_run

HERE, CLOCK = "abacus, 2 cores", "mixture_of_mamba.evaluation.timing.time.monotonic"


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    monkeypatch.setattr(timing, "machine", lambda: dict(zip("ab", HERE.split(", "), strict=True)))
    return list(make_plan(seeds=[0]).jobs(tmp_path))


def train(
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    *,
    at_a_time: int = 1,
    foreign: float = 0.0,
    names: tuple[str, ...] = ("dense-seed0", "mom-seed0"),
) -> None:
    """100 s of training, beside which other processes use `foreign` CPU seconds."""
    seconds, clock = iter([7.0, 7.0 + foreign]), iter([50.0, 150.0])
    monkeypatch.setattr(timing, "_foreign_seconds", lambda: next(seconds))
    monkeypatch.setattr(CLOCK, lambda: next(clock))
    with recording_isolation(jobs, jobs[0].folder.parent, at_a_time=at_a_time):
        for job in jobs:
            if job.name in names:
                write_run(job, lambda job, name, steps: 1.0 / steps)


def notes(jobs: list[Job]) -> dict[str, str | None]:
    return json.loads((jobs[0].folder.parent / "timing.json").read_text())


@pytest.mark.parametrize(
    ("at_a_time", "foreign", "alone"), [(1, 9.0, True), (1, 11.0, False), (2, 0.0, False)]
)
def test_other_runs_and_other_work_are_company(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch, at_a_time: int, foreign: float, alone: bool
) -> None:
    train(jobs, monkeypatch, at_a_time=at_a_time, foreign=foreign)
    assert notes(jobs) == dict.fromkeys(["dense-seed0", "mom-seed0"], HERE if alone else None)
    assert measured_alone(jobs[0].folder.parent, notes(jobs)) is alone


def test_a_run_stays_accompanied_and_a_finished_one_keeps_its_note(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(jobs, monkeypatch, names=("dense-seed0",))
    part = jobs[1].folder / "metrics.jsonl"
    part.parent.mkdir()
    part.write_text("")  # begun by somebody who kept no note
    (jobs[0].folder.parent / "timing.json").write_text(json.dumps({"dense-seed0": HERE}))
    train(jobs, monkeypatch)
    assert notes(jobs) == {"dense-seed0": HERE, "mom-seed0": None}


def test_who_was_killed_while_nobody_watched_is_not_alone(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = jobs[0].folder.parent
    killed = recording_isolation(jobs, out, at_a_time=1)
    killed.__enter__()
    assert notes(jobs) == {"dense-seed0": None, "mom-seed0": None}
    assert not measured_alone(out, ["dense-seed0"])


def test_foreign_seconds_are_neither_idle_nor_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a guest's time, which a user's holds already, nothing is counted twice."""
    names = "user nice system idle iowait irq softirq steal guest guest_nice"
    everything = namedtuple("everything", names)(100, 20, 50, 5000, 7, 1, 2, 4, 30, 0)
    ours = namedtuple("ours", "user system children_user children_system iowait")
    monkeypatch.setattr(timing.psutil, "cpu_times", lambda: everything)
    monkeypatch.setattr(timing.psutil.Process, "cpu_times", lambda self: ours(10, 1, 60, 6, 3))
    assert timing._foreign_seconds() == (100 + 20 + 50 + 1 + 2 + 4) - (10 + 1 + 60 + 6)
