"""Two processes on gloo compute what one does, also where a rank lacks a modality."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.training.checkpoint_folders import checkpoints
from mixture_of_mamba.training.distributed import to_device
from mixture_of_mamba.training.loop import train
from tests.factories.training import build_uneven, logged, tiny_config

TINY = Path(__file__).parents[1] / "factories" / "training.py"
#: Two windows a step, so one for each rank; every other window is text only.
OPTIONS: dict[str, Any] = {"batch_size": 2, "steps": 8, "evaluate_every": 4, "checkpoint_every": 4}


def run_two(folder: Path, strategy: str, *flags: str, **options: Any) -> None:
    given = json.dumps(OPTIONS | {"devices": 2, "strategy": strategy} | options)
    command = [sys.executable, "-W", "ignore", str(TINY), str(folder), given, "--uneven", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TINY.parents[2] / "src")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same(two: Path, one: Path) -> None:
    for a, b in zip(logged(two), logged(one), strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "gradient_norm"):
            assert a.get(name) == pytest.approx(b.get(name), abs=1e-5)
        assert a["losses"] == pytest.approx(b["losses"], abs=1e-5)
    wanted = load_file(one / "model" / "model.safetensors")
    for name, value in load_file(two / "model" / "model.safetensors").items():
        torch.testing.assert_close(value, wanted[name], atol=5e-4, rtol=0, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(tiny_config(**OPTIONS), folder, build=build_uneven)
    return folder


def test_some_rank_lacks_a_modality() -> None:
    """What the tests below rely on: at some step one rank has images and the other has none."""
    from mixture_of_mamba.data.sampler import ShuffledSampler

    windows = build_uneven(None).train
    order = ShuffledSampler(len(windows), 0)
    has = [
        [
            bool((windows.batch(order.indices(step, 1, r, 2)).modality_ids == 1).any())
            for r in (0, 1)
        ]
        for step in range(OPTIONS["steps"])
    ]
    assert [True, False] in has and [False, True] in has


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path: Path, alone: Path, strategy: str) -> None:
    """Stopped half-way and resumed, with parts of a step, evaluations and checkpoints."""
    run_two(tmp_path / "run", strategy, stop_after=4)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-00000004"]
    run_two(tmp_path / "run", strategy, "--resume")
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_run_of_two_processes_continues_in_one(tmp_path: Path, alone: Path) -> None:
    run_two(tmp_path / "run", "fsdp", stop_after=4)
    train(tiny_config(**OPTIONS), tmp_path / "run", build=build_uneven, resume=True)
    assert_same(tmp_path / "run", alone)


@pytest.mark.slow
def test_error_on_the_first_process_ends_all(tmp_path: Path, alone: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(TINY), str(alone), json.dumps({"devices": 2})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "already holds a run" in done.stderr


def test_batches_are_checked_before_they_leave_the_host() -> None:
    """Models elsewhere than on the CPU cannot: they would wait for the answer."""
    model = MultimodalModel(
        ModelConfig(d_model=8, n_layers=1, modalities=[Modality("text", "discrete", 5)])
    )
    elsewhere: Any = SimpleNamespace(device=torch.device("meta"))
    fine = Batch(tokens=torch.tensor([[1, 4]]), modality_ids=torch.zeros(1, 2).long())
    assert to_device(elsewhere, fine, model).tokens.device.type == "meta"
    with pytest.raises(ValueError, match="tokens of modality 'text' contain 5"):
        to_device(elsewhere, replace(fine, tokens=torch.tensor([[1, 5]])), model)
