"""A run that was stopped, killed or ran out of disk continues as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.files import SUMS
from mixture_of_mamba.processes import Stopped
from mixture_of_mamba.training import checkpoint
from mixture_of_mamba.training.checkpoint import CheckpointError
from mixture_of_mamba.training.checkpoint_folders import checkpoints
from mixture_of_mamba.training.loop import Evaluation, train
from tests.factories.training import Data, build, build_uneven, logged, tiny_config

TINY = Path(__file__).parents[1] / "factories" / "training.py"


def weights(folder: Path) -> dict[str, bytes]:
    tensors = load_file(folder / "model" / "model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def steps(folder: Path) -> list[str]:
    return [path.name for path in checkpoints(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(tiny_config(), folder, build=build).finished
    return folder


@pytest.mark.parametrize(
    "options", [{}, {"log_every": 4, "gradient_accumulation_steps": 2, "evaluate_every": 5}]
)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stop_and_resume_is_bit_identical(
    tmp_path: Path, stop: int, options: dict[str, Any]
) -> None:
    """At a step in the middle of a logged mean too."""
    train(tiny_config(**options), tmp_path / "whole", build=build_uneven)
    first = train(tiny_config(stop_after=stop, **options), tmp_path / "a", build=build_uneven)
    assert not first.finished and first.step == stop
    assert not (tmp_path / "a" / "model").exists()
    last = train(tiny_config(**options), tmp_path / "a", build=build_uneven, resume=True)
    assert last.finished
    assert logged(tmp_path / "a") == logged(tmp_path / "whole")
    assert weights(tmp_path / "a") == weights(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["save_file", "rename", "step"])
def test_kill_nine_loses_nothing(tmp_path: Path, whole: Path, moment: str) -> None:
    """kill -9 while step 4's checkpoint is written, just before its rename, and between two."""
    script = f"""
import os, runpy, signal, sys
from pathlib import Path
from mixture_of_mamba.training import checkpoint, trainer
def kill(*args): os.kill(os.getpid(), signal.SIGKILL)
def at_four(act):
    def wrapped(*args, **more):
        if "step-00000004" in str(args): kill()
        return act(*args, **more)
    return wrapped
if {moment!r} == "save_file": checkpoint.save_file = at_four(checkpoint.save_file)
if {moment!r} == "rename": Path.rename = at_four(Path.rename)
if {moment!r} == "step":
    real = trainer.accumulate_gradients
    trainer.accumulate_gradients = lambda *a: kill() if a[-1] == 6 else real(*a)
sys.argv = [{str(TINY)!r}, {str(tmp_path / "run")!r}, "{{}}"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    expected = ["step-00000002"] + ["step-00000004"] * (moment == "step")
    assert steps(tmp_path / "run") == expected
    train(tiny_config(), tmp_path / "run", build=build, resume=True)
    assert logged(tmp_path / "run") == logged(whole)
    assert weights(tmp_path / "run") == weights(whole)
    assert not list((tmp_path / "run" / "checkpoints").glob(".*")), "the half one is cleaned up"


def no_space(*args: Any, **more: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kernel", [True, False], ids=["refused by the kernel", "ENOSPC"])
def test_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(evaluation: Evaluation) -> None:
        """From step 3 on no file can grow beyond 100 kB: the optimizer does not fit."""
        if kernel:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        else:
            monkeypatch.setattr(checkpoint, "save_file", no_space)

    run = tmp_path / "run"
    try:
        with pytest.raises(CheckpointError) as error:
            train(tiny_config(), run, build=build, on_evaluation=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        monkeypatch.undo()
    message = str(error.value)
    assert "the checkpoint of step 4 could not be written" in message
    assert ("File too large" if kernel else "No space left") in message
    assert f"{run / 'checkpoints' / 'step-00000002'} is intact" in message
    assert "--resume" in message
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-00000002"]
    train(tiny_config(), run, build=build, resume=True)
    assert logged(run) == logged(whole)
    assert weights(run) == weights(whole)


def test_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    newest = checkpoints(run)[-1]
    data = (newest / "optimizer.safetensors").read_bytes()
    (newest / "optimizer.safetensors").write_bytes(data[: len(data) // 2])
    train(tiny_config(), run, build=build, resume=True)
    assert "skipping the damaged checkpoint" in capsys.readouterr().err
    assert logged(run) == logged(whole)
    assert weights(run) == weights(whole)


def test_no_readable_checkpoint_is_an_error(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in checkpoints(run):
        (path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .* can be read"):
        train(tiny_config(), run, build=build, resume=True)
    assert len(logged(run)) == len(logged(whole)), "the log is not cut before a checkpoint is read"


def test_last_k_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tiny_config(keep_checkpoints=1, checkpoint_every=1), tmp_path / "a", build=build)
    assert steps(tmp_path / "a") == ["step-00000006"]
    train(tiny_config(keep_checkpoints=3, checkpoint_every=1), tmp_path / "b", build=build)
    assert steps(tmp_path / "b") == [f"step-0000000{i}" for i in (4, 5, 6)]


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    train(tiny_config(stop_after=3), tmp_path / "run", build=build)
    return tmp_path / "run"


def test_folder_with_a_run_asks_for_resume_or_another_name(stopped: Path) -> None:
    before = (stopped / "metrics.jsonl").read_text()
    with pytest.raises(FileExistsError) as error:
        train(tiny_config(), stopped, build=build)
    assert "already holds a run (with a checkpoint of step 3)" in str(error.value)
    assert "--resume" in str(error.value) and "--out" in str(error.value)
    assert (stopped / "metrics.jsonl").read_text() == before


def test_other_config_names_the_differing_fields(stopped: Path) -> None:
    with pytest.raises(ValueError) as error:
        train(tiny_config(learning_rate=0.5, seed=3), stopped, build=build, resume=True)
    message = str(error.value)
    assert "train.learning_rate: 0.002 -> 0.5" in message and "train.seed: 0 -> 3" in message
    assert "batch_size" not in message


@pytest.mark.parametrize(
    "change",
    [{"log_every": 2}, {"keep_checkpoints": 1}, {"activation_checkpointing": True}, {"threads": 1}],
)
def test_fields_that_do_not_change_the_steps_may_differ(
    stopped: Path, change: dict[str, Any]
) -> None:
    assert train(tiny_config(**change), stopped, build=build, resume=True).finished


def test_more_steps_can_be_asked_for(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tiny_config(steps=9), stopped, build=build, resume=True).step == 9
    assert "goes on to step 9 (it was 6)" in capsys.readouterr().err


def test_nothing_to_resume_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        train(tiny_config(), tmp_path / "none", build=build, resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        train(tiny_config(), tmp_path / "photos", build=build)


@pytest.mark.parametrize("error", [ValueError("a bad document"), KeyboardInterrupt()])
def test_a_run_that_could_not_begin_is_not_in_the_way(tmp_path: Path, error: BaseException) -> None:
    def fails(config: DataConfig) -> Any:
        raise error

    run = tmp_path / "run"
    with pytest.raises(type(error)):
        train(tiny_config(), run, build=fails)
    assert not run.exists()
    assert train(tiny_config(learning_rate=1e-3), run, build=build).finished
    with pytest.raises(type(error)):
        train(tiny_config(learning_rate=1e-3), run, build=fails, resume=True)
    assert (run / "model").is_dir() and (run / "config.yaml").is_file()


def test_lines_after_the_checkpoint_and_torn_lines_are_cut(stopped: Path, whole: Path) -> None:
    log = stopped / "metrics.jsonl"
    ahead = json.dumps({"phase": "train", "step": 4, "loss": 0.0, "losses": {}})
    log.write_text(log.read_text() + ahead + "\n" + ahead[:20])
    train(tiny_config(), stopped, build=build, resume=True)
    assert logged(stopped) == logged(whole)


def test_finished_run_resumes_to_nothing(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    assert train(tiny_config(), tmp_path / "run", build=build, resume=True).finished
    assert logged(tmp_path / "run") == logged(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_with_a_checkpoint(tmp_path: Path, whole: Path, number: int) -> None:
    def terminate(evaluation: Evaluation) -> None:
        os.kill(os.getpid(), number)

    run = tmp_path / "run"
    before: Callable[..., Any] | Any = signal.getsignal(number)
    result = train(tiny_config(), run, build=build, on_evaluation=terminate)
    assert (result.step, result.finished) == (3, False)
    assert steps(run)[-1] == "step-00000003"
    assert signal.getsignal(number) == before
    train(tiny_config(), run, build=build, resume=True)
    assert logged(run) == logged(whole)


def test_a_closed_terminal_does_not_end_what_runs_under_nohup(tmp_path: Path) -> None:
    def close(evaluation: Evaluation) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(tiny_config(), tmp_path / "run", build=build, on_evaluation=close).finished
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_data_is_prepared_leaves_nothing(tmp_path: Path, number: int) -> None:
    def ended(config: DataConfig) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(10)

    with pytest.raises(Stopped) as error:
        train(tiny_config(), tmp_path / "run", build=ended)
    assert error.value.number == number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "training.json"])
def test_one_flipped_bit_in_a_checkpoint_is_skipped_and_named(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """In the middle of the tensors, or in a digit of the random state: it would still be read."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "model")
    damaged = checkpoints(run)[-1] / name
    data = bytearray(damaged.read_bytes())
    digits = [i for i, byte in enumerate(data) if byte in b"02468"]
    place = digits[len(digits) // 2] if name.endswith("json") else len(data) * 3 // 4
    data[place] ^= 1
    damaged.write_bytes(data)
    train(tiny_config(), run, build=build, resume=True)
    said = capsys.readouterr().err
    assert f"skipping the damaged checkpoint {damaged.parent}: {damaged} is damaged" in said
    assert logged(run) == logged(whole)
    assert weights(run) == weights(whole)


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_resumes(
    tmp_path: Path, whole: Path
) -> None:
    train(tiny_config(stop_after=3), tmp_path / "run", build=build)
    for path in (tmp_path / "run").rglob(SUMS):
        path.unlink()
    train(tiny_config(), tmp_path / "run", build=build, resume=True)
    assert logged(tmp_path / "run") == logged(whole)


def test_a_damaged_model_is_refused_by_name(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 64
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        MultimodalModel.from_pretrained(tmp_path / "model")
    assert load_file(path), "the library itself notices nothing"


def with_digests(config: DataConfig, **changes: str) -> Data:
    data = build(config)
    data.digests = {"train windows": "a", "text tokenizer": "b"} | changes  # type: ignore[attr-defined]
    data.made_from = {"torch": "2.12", "documents": "d" + "".join(changes)}  # type: ignore[attr-defined]
    return data


def test_a_resume_with_other_data_names_what_changed(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(tiny_config(stop_after=3), run, build=with_digests)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(ValueError) as error:
        train(
            tiny_config(),
            run,
            build=lambda c: with_digests(c, **{"text tokenizer": "other"}),
            resume=True,
        )
    assert str(error.value) == (
        f"{run} was trained on other data: text tokenizer changed (it is made from another "
        "documents); put back what it began with, or start a new run under another --out"
    )
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    train(tiny_config(), run, build=with_digests, resume=True)
    assert logged(run) == logged(whole)
    assert "keeps no digest" not in capsys.readouterr().err


def test_a_run_of_an_earlier_version_resumes_with_a_line_that_says_so(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(tiny_config(stop_after=3), run, build=with_digests)
    (run / "data.json").unlink()
    train(tiny_config(stop_after=4), run, build=with_digests, resume=True)
    assert capsys.readouterr().err.count("keeps no digest of its data") == 1
    train(tiny_config(), run, build=with_digests, resume=True)
    assert "keeps no digest" not in capsys.readouterr().err
    assert logged(run) == logged(whole)


def test_steps_may_grow_and_not_shrink_below_what_was_reached(stopped: Path) -> None:
    before = (stopped / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"has reached step 3, but train\.steps is 2; it may grow"):
        train(tiny_config(steps=2), stopped, build=build, resume=True)
    assert (stopped / "config.yaml").read_text() == before
