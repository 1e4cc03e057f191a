"""How many runs at a time, and none beside another writer."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mixture_of_mamba.evaluation import runner
from mixture_of_mamba.evaluation.progress import ComparisonProgress
from mixture_of_mamba.evaluation.runner import RunFailed, default_jobs, run_jobs
from mixture_of_mamba.startup import usable_cores
from mixture_of_mamba.training.lock import FolderLock
from tests.factories.runs import make_plan


def test_one_run_per_core_and_one_on_a_gpu() -> None:
    config = make_plan().config
    on_cpu = replace(config, train=replace(config.train, device="cpu"))
    on_gpu = replace(config, train=replace(config.train, device="cuda"))
    assert default_jobs(on_cpu) == usable_cores()
    assert default_jobs(on_gpu) == 1
    assert default_jobs(config) == (1 if torch.cuda.is_available() else default_jobs(on_cpu))


def test_no_run_is_started_beside_a_living_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is waited for, as long as one that lost its comparison needs; then the writer is named."""
    jobs = list(make_plan().jobs(tmp_path))
    monkeypatch.setattr(runner, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(runner, "_start", lambda *a: pytest.fail("a second one was started"))
    with FolderLock(jobs[0].folder), pytest.raises(RunFailed) as error:
        run_jobs(jobs, tmp_path, at_a_time=2, progress=ComparisonProgress())
    message = str(error.value)
    assert f"{jobs[0].folder} is being written by process {os.getpid()} on " in message
    assert "dense-seed0: waiting for process" in capsys.readouterr().err
