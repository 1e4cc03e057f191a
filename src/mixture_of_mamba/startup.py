"""OpenMP settings of this process: the number of threads, and how they wait.

Imported before torch, whose OpenMP library reads its settings once, when it is loaded. They change
run times, never results.

* Threads that wait for the next parallel region spin for a tenth of a millisecond, and then sleep.
  gcc's library spins for milliseconds: beside another busy process, the waiting threads take the
  time of the ones that they wait for, and a step takes up to hundreds of times as long. Sleeping at
  once costs a tenth or more on an idle machine.
* There are no more threads than the cores that this process may use: its affinity, and the quota
  of its container or control group, which OpenMP does not read.

Variables that the environment sets already are left alone. Where torch was imported first, nothing
is set, as it would reach child processes only. `mom env` shows what is in effect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["SETTINGS", "WAITING", "granted_cores", "usable_cores"]

#: How waiting threads spin: gcc's OpenMP in rounds, LLVM's and Intel's in milliseconds.
WAITING = {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0"}
#: The settings of this process in words, for `mom env`.
SETTINGS: list[str] = []


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and not more than its quota, rounded up."""
    return min(_affinity(), granted_cores() or _affinity())


def granted_cores(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Cores that the quotas of this process's control groups grant, rounded up; None without quota.

    Args:
        root: where control groups are mounted, of version 1, 2, or both.
        own: the file that names this process's groups.
    """
    quotas = [
        quota
        for folder in _groups(root, own)
        for quota in (_quota_v2(folder), _quota_v1(folder))
        if quota is not None
    ]
    return min(quotas, default=None)


def _groups(root: Path, own: Path) -> list[Path]:
    """This process's groups and their parents, each of which may limit it. A container often sees
    its own group as the root, and names in `own` that do not exist there."""
    found = [root, root / "cpu", root / "cpu,cpuacct"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return found
    for line in lines:  # "0::/user.slice/a.scope", "4:cpu,cpuacct:/docker/123"
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            tops = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [root / "cpu", root / controllers]
        else:
            continue
        for top in tops:
            folder = top
            for part in Path(name.lstrip("/")).parts:
                folder = folder / part
                found.append(folder)
    return found


def _quota_v2(folder: Path) -> int | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or "max"
        return None


def _quota_v1(folder: Path) -> int | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return max(1, -(-quota // period)) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare() -> None:
    """Set the variables that are not set, and record in SETTINGS what was done."""
    if "torch" in sys.modules:
        SETTINGS.append(
            "threads and waiting: as OpenMP has them, because torch was imported before "
            "mixture_of_mamba; import mixture_of_mamba first, or set GOMP_SPINCOUNT and "
            "OMP_NUM_THREADS before Python starts"
        )
        return
    given = [name for name in ("OMP_WAIT_POLICY", *WAITING) if name in os.environ]
    if given:
        words = ", ".join(f"{name}={os.environ[name]}" for name in given)
        SETTINGS.append(f"waiting threads: {words}, as the environment says")
    else:
        os.environ.update(WAITING)
        SETTINGS.append("waiting threads: sleep soon")
    if "OMP_NUM_THREADS" in os.environ:
        SETTINGS.append(f"threads: {os.environ['OMP_NUM_THREADS']}, as the environment says")
    elif (cores := usable_cores()) < _affinity():
        os.environ["OMP_NUM_THREADS"] = str(cores)
        SETTINGS.append(f"threads: {cores}, as the quota of this container or group grants")
    else:
        SETTINGS.append(f"threads: {cores}, one for each core that this process may use")


_prepare()
