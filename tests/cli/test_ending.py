"""Signals and kill -9, with the processes that a command starts: nothing goes on without it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mixture_of_mamba.training.checkpoint_folders import checkpoints
from mixture_of_mamba.training.lock import LOCK, writer_of
from mixture_of_mamba.training.metrics import read_metrics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="signals and orphans of Unix"),
]

DATA = [
    *("--data.setting", "chameleon_speech", "--data.text_vocabulary", "300"),
    *("--data.image_codes", "32", "--data.speech_units", "16", "--data.window", "256"),
]
MODEL = [
    *("--model.d_model", "16", "--model.n_layers", "1", "--train.batch_size", "2"),
    *("--train.tensorboard", "false", "--train.device", "cpu", "--train.samples", "0"),
]
SMALL = [*DATA, "--data.scenes", "60", "--data.image_steps", "10", *MODEL]
LARGE = [*DATA, "--data.scenes", "3000", "--data.image_steps", "2000", *MODEL]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mixture_of_mamba", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + 240
    while not what():
        assert time.monotonic() < until, "waited in vain"
        if process is not None and process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"it ended early: {process.stderr.read()}")
        time.sleep(0.05)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("command", ["train", "compare", "tokenizer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_a_signal_while_data_is_prepared(tmp_path: Path, command: str, number: int) -> None:
    """No process goes on, and there is neither a run nor a half-made folder of the cache."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    options = DATA if command == "tokenizer" else [*DATA, *MODEL]
    options = [*options, "--data.scenes", "3000", "--data.image_steps", "2000"]
    action = ["tokenizer", "train"] if command == "tokenizer" else [command]
    process = start(*action, *options, "--data.cache", str(cache), "--out", str(out))
    family = psutil.Process(process.pid)
    wait_for(lambda: len(family.children()) == 2, process)  # they speak the captions
    children = family.children(recursive=True)
    process.send_signal(number)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 130 and said.endswith(f"mom {command}: interrupted\n"), said
    wait_for(lambda: living(children) == [])  # one that was just being started ends by itself
    assert not out.exists()
    assert [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] == []


def test_kill_nine_while_data_is_prepared_ends_the_children_too(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    process = start("train", *LARGE, "--data.cache", str(cache), "--out", str(out))
    family = psutil.Process(process.pid)
    wait_for(lambda: len(family.children()) == 2, process)
    children = family.children(recursive=True)
    process.kill()
    process.communicate()
    wait_for(lambda: living(children) == [])


def test_kill_nine_of_a_comparison_ends_its_runs_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    """With a checkpoint each; the second command waits for them, and nothing is trained twice."""
    out = tmp_path / "out"
    arguments = ["compare", *SMALL, "--data.cache", str(tmp_path / "cache"), "--out", str(out)]
    arguments += ["--seeds", "0", "--jobs", "2", "--samples", "0", "--judged", "0"]
    arguments += ["--train.steps", "3000", "--train.warmup", "10", "--train.log_every", "1"]
    arguments += ["--train.checkpoint_every", "100000", "--train.evaluate_batches", "1"]
    runs = [out / "dense-seed0", out / "mom-seed0"]
    first = start(*arguments)
    wait_for(lambda: all('"step": 5,' in _text(run / "metrics.jsonl") for run in runs), first)
    children = psutil.Process(first.pid).children()
    assert len(children) == 2
    first.kill()
    first.communicate()
    second = start(*arguments)
    wait_for(lambda: living(children) == [])
    reached = [int(checkpoints(run)[-1].name.removeprefix("step-")) for run in runs]
    assert min(reached) >= 5, "they ended with a checkpoint"
    wait_for(lambda: all(_step(run) > r + 3 for run, r in zip(runs, reached, strict=True)), second)
    for run in runs:
        holder = json.loads((run / LOCK).read_text())["pid"]
        assert holder in [p.pid for p in psutil.Process(second.pid).children()]
        assert writer_of(run) is not None
    third = start(*arguments)
    assert third.communicate()[1].strip().endswith("which leaves a checkpoint")
    assert third.returncode == 1
    assert len(psutil.Process(second.pid).children()) == 2
    children = psutil.Process(second.pid).children()
    second.terminate()
    assert second.communicate()[1].endswith("mom compare: interrupted\n")
    assert second.returncode == 130 and living(children) == []
    for run in runs:
        steps = [line["step"] for line in read_metrics(run / "metrics.jsonl")]
        assert steps == sorted(steps) and set(steps) == set(range(1, steps[-1] + 1))
        assert not (run / LOCK).exists()
    assert not (out / LOCK).exists()


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _step(run: Path) -> int:
    return max(line["step"] for line in read_metrics(run / "metrics.jsonl"))


def test_kill_nine_of_the_first_of_two_processes_ends_the_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = [*SMALL, "--train.devices", "2", "--train.steps", "100000", "--train.log_every", "1"]
    first = start("train", *options, "--data.cache", str(tmp_path / "cache"), "--out", str(out))
    wait_for(lambda: '"step": 3,' in _text(out / "metrics.jsonl"), first)
    further = psutil.Process(first.pid).children()
    assert len(further) == 1
    first.kill()
    first.communicate()
    wait_for(lambda: living(further) == [] and writer_of(out) is None)
