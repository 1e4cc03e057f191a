"""A folder has one writer, who is named, and whose right ends with the process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mixture_of_mamba.training.checkpoint_folders import checkpoints
from mixture_of_mamba.training.lock import LOCK, FolderInUse, FolderLock, writer_of
from mixture_of_mamba.training.loop import Evaluation, train
from tests.factories.training import build, logged, tiny_config

HOLD = """
import sys, time
from pathlib import Path
from mixture_of_mamba.training.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(120)
"""


def test_the_holder_is_named_and_gives_the_folder_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with FolderLock(folder):
        with pytest.raises(FolderInUse) as error:
            FolderLock(folder).acquire()
        message = str(error.value)
        assert f"{folder} is being written by process {os.getpid()} on {socket.gethostname()}" in (
            message
        )
        since = json.loads((folder / LOCK).read_text())["since"]
        assert f"since {since}" in message and "end it with kill" in message
        assert writer_of(folder) is not None
        assert (folder / LOCK).is_file(), "who is refused takes nothing away"
    assert not folder.exists(), "made for the lock, and empty"
    assert writer_of(folder) is None
    folder.mkdir()
    (folder / "mine").write_text("")
    with FolderLock(folder):
        pass
    assert [p.name for p in folder.iterdir()] == ["mine"]


def test_asking_does_not_take_it_away(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        for _ in range(3):
            assert writer_of(tmp_path) is not None
        with pytest.raises(FolderInUse):
            FolderLock(tmp_path).acquire()


def test_it_ends_with_kill_nine_of_its_holder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        with pytest.raises(FolderInUse, match=f"process {holder.pid} on "):
            FolderLock(tmp_path).acquire()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert (tmp_path / LOCK).is_file() and writer_of(tmp_path) is None
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_second_resume_of_a_run_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    run, refused = tmp_path / "run", []

    def second(evaluation: Evaluation) -> None:
        for resume in (True, False):
            with pytest.raises((FolderInUse, FileExistsError)) as error:
                train(tiny_config(), run, build=build, resume=resume)
            refused.append(str(error.value))
        before = sorted(p.name for p in run.rglob("*"))
        assert "config.yaml" in before and len(checkpoints(run)) > 0

    assert train(tiny_config(), run, build=build, on_evaluation=second).finished
    assert "is being written by process" in refused[0] and "already holds a run" in refused[1]
    train(tiny_config(), tmp_path / "alone", build=build)
    assert logged(run) == logged(tmp_path / "alone")
    assert not (run / LOCK).exists()
