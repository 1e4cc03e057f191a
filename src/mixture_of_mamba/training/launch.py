"""Checks of the number of processes that torchrun, mpirun or Slurm started."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["check_alone", "check_launch", "started"]

#: Variables in which launchers say how many processes they started; the first that is set counts.
_COUNTS = (
    ("WORLD_SIZE", "torchrun, or WORLD_SIZE in the environment,"),
    ("OMPI_COMM_WORLD_SIZE", "mpirun"),
    ("PMI_SIZE", "mpiexec"),
    ("SLURM_STEP_NUM_TASKS", "Slurm"),
    ("SLURM_NTASKS", "Slurm"),
)


def started(environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """(processes, launcher); 1 where no variable of a launcher is set."""
    given = os.environ if environment is None else environment
    for name, launcher in _COUNTS:
        if given.get(name, "").isdigit():
            return int(given[name]), launcher
    return 1, ""


def check_launch(devices: int) -> None:
    """Refuse what would be several runs in one folder.

    Args:
        devices: train.devices.

    Raises:
        ValueError: a launcher started another number of processes than the run has devices, or is
            none that the run can join.
    """
    count, launcher = started()
    if count == 1:
        return
    if launcher in ("Slurm", "mpirun", "mpiexec"):
        raise ValueError(
            f"{launcher} has {count} tasks here, and each would train the same run in the same "
            "folder; start one task, and let --train.devices start the processes on its machine"
        )
    if count != devices:
        raise ValueError(
            f"{launcher} started {count} processes, but train.devices is {devices}: each would "
            f"train the same run in the same folder; give --train.devices {count}, or start mom "
            "train without torchrun (--train.devices starts the processes itself)"
        )


def check_alone(command: str) -> None:
    """Refuse several copies of a command that is one process.

    Raises:
        ValueError: a launcher started several.
    """
    count, launcher = started()
    if count > 1:
        raise ValueError(
            f"{launcher} started {count} processes, and each would do the same work in the same "
            f"folder; start {command} once, without a launcher"
        )
