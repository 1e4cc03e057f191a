"""Trains the runs of a comparison as processes, some at a time; the first failure stops all."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..files import writing
from ..processes import adopting, unwinding
from ..startup import usable_cores
from ..training.config import RunConfig
from ..training.lock import writer_of
from ..training.progress_bar import clock
from .plan import Job
from .progress import ComparisonProgress, progress_line

__all__ = ["RunFailed", "default_jobs", "run_jobs"]

POLL_SECONDS = 0.5
LEAVE_SECONDS = 60.0
"""For a run to end whose comparison was killed."""


class RunFailed(RuntimeError):
    """A run of a comparison ended with an error; names it, its last line, and its log."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: Path
    started: float


def default_jobs(config: RunConfig) -> int:
    """Runs at a time: the cores that this process may use; one where a GPU is trained on."""
    return 1 if config.train.resolved_device == "cuda" else usable_cores()


def run_jobs(
    jobs: Iterable[Job], out: Path, *, at_a_time: int, progress: ComparisonProgress
) -> None:
    """Train what is not finished yet; runs that were begun go on from their last checkpoint.

    Args:
        jobs: whose configs are in OUT/configs/ (see write_plan).
        out: folder of the comparison; logs go to OUT/logs/.
        at_a_time: processes, each with the threads of its config, or one.
        progress: shows how far they are.

    Raises:
        RunFailed: one of them failed; the others were stopped, and can be resumed.
    """
    with writing(out):
        (out / "logs").mkdir(parents=True, exist_ok=True)
    waiting = list(jobs)
    running: list[_Running] = []
    with ExitStack() as stack:
        stack.callback(_stop, running)
        stack.enter_context(unwinding())
        while waiting or running:
            while waiting and len(running) < at_a_time:
                job = waiting.pop(0)
                _wait_for_writer(job, progress)
                if job.finished():
                    progress.say(f"{job.name}: finished before, kept")
                else:
                    running.append(_start(job, out))
            for run in [r for r in running if r.process.poll() is not None]:
                running.remove(run)
                _check(run)
                took = clock(time.monotonic() - run.started)
                progress.say(f"{run.job.name}: done in {took}")
            progress.show([(r.job.name, _line(r.job)) for r in running])
            time.sleep(POLL_SECONDS if running else 0.0)


def _wait_for_writer(job: Job, progress: ComparisonProgress) -> None:
    """A run that lost its comparison (kill -9) saves a checkpoint and ends; begin after that."""
    until = time.monotonic() + LEAVE_SECONDS
    writer = writer_of(job.folder)
    if writer is not None:
        progress.say(f"{job.name}: waiting for {writer}, which still writes there")
    while writer is not None:
        if time.monotonic() > until:
            raise RunFailed(
                f"{job.folder} is being written by {writer}; wait until it has ended, or end it "
                "with kill; the same command goes on then"
            )
        time.sleep(POLL_SECONDS)
        writer = writer_of(job.folder)


def _line(job: Job) -> str:
    return progress_line(job.folder, job.config.train.steps)


def _start(job: Job, out: Path) -> _Running:
    log = out / "logs" / f"{job.name}.log"
    threads = str(job.config.train.threads or 1)
    command = [sys.executable, "-m", "mixture_of_mamba", "train"]
    command += ["-c", str(out / "configs" / f"{job.name}.yaml"), "--out", str(job.folder)]
    command += ["--train.threads", threads, "--train.progress", "false"]
    if (job.folder / "config.yaml").is_file():
        command.append("--resume")
    with writing(log), log.open("ab") as stream, adopting():
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )
    return _Running(job, process, log, time.monotonic())


def _check(run: _Running) -> None:
    """Raise where a process that has ended did not do its job."""
    if run.process.returncode == 0 and run.job.finished():
        return
    code = run.process.returncode
    lines = run.log.read_text(errors="replace").splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    how = f"was killed by signal {-code}" if code < 0 else f"failed (exit code {code})"
    if code == 0:
        how = f"ended before step {run.job.config.train.steps}"
    raise RunFailed(
        f"the run {run.job.name} {how}: {said} -- all it said is in {run.log}; "
        "the same command goes on from the last checkpoints"
    )


def _stop(running: list[_Running]) -> None:
    """End what still runs; each has its checkpoints."""
    for run in running:
        run.process.terminate()
    for run in running:
        try:
            run.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            run.process.kill()
            run.process.wait()
