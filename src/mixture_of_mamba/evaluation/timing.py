"""Whether runs of a comparison were timed on an idle machine; else no time to match is claimed.

Runs side by side, or other work on the machine, change the seconds of a run by tens of per cent,
and not of all runs alike.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ..files import write_json
from .artefacts import read_artefact
from .machine import machine
from .plan import Job

__all__ = ["measured_alone", "recording_isolation"]

FOREIGN_CORES = 0.1
"""Cores that other processes may use on average beside a run that counts as alone."""


@contextmanager
def recording_isolation(jobs: Iterable[Job], out: Path, *, at_a_time: int) -> Iterator[None]:
    """Inside, what is left of `jobs` is trained, `at_a_time` runs at a time. OUT/timing.json gets
    for each run the machine on which it was alone from its first step to its last, else null."""
    here = ", ".join(machine().values())
    before = _read(out)
    alone = {
        job.name: before.get(job.name) if (job.folder / "metrics.jsonl").is_file() else here
        for job in jobs
        if not job.finished()
    }
    if not alone:
        yield
        return
    _write(out, before | dict.fromkeys(alone))  # as it stays where this process is killed
    began, foreign = time.monotonic(), _foreign_seconds()
    try:
        yield
    finally:
        cores = (_foreign_seconds() - foreign) / max(time.monotonic() - began, 1e-9)
        if min(at_a_time, len(alone)) == 1 and cores < FOREIGN_CORES:
            kept = {name: where if where == here else None for name, where in alone.items()}
            _write(out, before | kept)


def measured_alone(out: Path, names: Iterable[str]) -> bool:
    """Whether runs were trained one at a time, on one machine that did nothing else."""
    notes = _read(out)
    where = {notes.get(name) for name in names}
    return len(where) == 1 and None not in where


def _foreign_seconds() -> float:
    """CPU seconds so far of everything but this process and its children that have ended (which
    some systems do not count: there, no run is alone)."""
    everything, ours = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = sum(getattr(everything, name, 0.0) for name in ("idle", "iowait", "guest", "guest_nice"))
    return float(sum(everything) - idle - sum(ours[:4]))  # the fifth is waiting


def _read(out: Path) -> dict[str, str | None]:
    return read_artefact(out / "timing.json") or {}


def _write(out: Path, notes: dict[str, str | None]) -> None:
    write_json(out / "timing.json", notes, indent=1)
