"""Several processes of one command never become several runs in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.training.launch import check_launch, started

NAMES = (
    *("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
    *("LOCAL_RANK", "RANK"),
)
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
SLURM = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        (TORCHRUN, 2),
        ({"WORLD_SIZE": "1", "SLURM_NTASKS": "1"}, 1),
        (SLURM, 2),
        ({"SLURM_NTASKS": "4"}, 4),  # a batch script with several tasks, without srun
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, 1),  # srun -n 1 inside
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({"PMI_SIZE": "3"}, 3),
        ({"WORLD_SIZE": "many"}, 1),
    ],
)
def test_launchers_are_understood(environment: dict[str, str], count: int) -> None:
    assert started(environment)[0] == count


@pytest.mark.parametrize(
    ("environment", "devices", "message"),
    [
        (TORCHRUN, 1, "started 2 processes, but train.devices is 1.*give --train.devices 2"),
        (TORCHRUN, 4, "started 2 processes, but train.devices is 4"),
        (SLURM, 1, "Slurm has 2 tasks here.*start one task"),
        (SLURM, 2, "Slurm has 2 tasks here"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 2, "mpirun has 2 tasks here"),
    ],
)
def test_what_a_run_is_not_set_up_for_is_refused(
    environment: dict[str, str], devices: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, environment)
    with pytest.raises(ValueError, match=message):
        check_launch(devices)


def test_as_many_processes_as_devices_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Fabric starts itself has these variables too."""
    put(monkeypatch, TORCHRUN)
    check_launch(2)


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM], ids=["torchrun", "Slurm"])
@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--out", "x"],
        ["compare", "--out", "x"],
        ["ablate", "--out", "x"],
        ["demo", "--out", "x"],
        ["tokenizer", "train", "--out", "x"],
        ["generate", "x", "--text", "a"],
        ["upcycle", "x", "--out", "y", "--modalities", "text"],
        ["report", "x"],
        ["bench"],
    ],
    ids=lambda argv: argv[0],
)
def test_commands_refuse_before_anything_is_written(
    environment: dict[str, str],
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(monkeypatch, environment | {"MOM_CACHE": str(tmp_path / "cache")})
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "in the same folder" in line and "start" in line
    assert list(tmp_path.iterdir()) == []
