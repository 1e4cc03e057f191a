"""Settings of `mom`'s own process: allocator, threads, waiting. They touch no result, only time.

* Memory that was used once stays with the process. glibc's default returns every large tensor to
  the system at once; the page faults of getting it back can cost more than the kernel itself.
* Threads that wait for the next parallel region sleep soon instead of spinning, so that processes
  on the same cores do not burn each other's time (mom_launch.py, because OpenMP reads this when
  torch is imported).
* No more threads than the CPUs that a container grants.

A library must not do this to its user's process; docs/performance.md lists the same settings as
environment variables.
"""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import torch

from mom_launch import wait_briefly

__all__ = ["configure", "granted_cpus", "keep_memory", "settings"]

# glibc's malloc.h. Large blocks come from the heap (no mmap), which is trimmed above 2 GiB only and
# grows by 64 MiB; one arena, because the others cannot hold large blocks.
_MALLOC = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 64 * 2**20),
    "M_MMAP_MAX": (-4, 0),
    "M_ARENA_MAX": (-8, 1),
}
_done: list[str] = []


def configure(command: str = "") -> None:
    """Set this process up, once; `command` is mom's sub-command. Set variables are left alone."""
    if _done:
        return
    _done.append(f"waiting threads: {wait_briefly()}")
    cpus = granted_cpus()
    if cpus is not None and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(cpus)  # for the processes that mom starts
        torch.set_num_threads(cpus)
        _done.append(f"threads: {cpus}, as this container grants")
    if any(name.startswith("MALLOC_") for name in os.environ):
        _done.append("allocator: as the MALLOC_ variables say")
    elif keep_memory():
        _done.append("allocator: keeps freed memory")
    else:
        _done.append("allocator: the system's defaults (not glibc)")


def settings() -> list[str]:
    """What `configure` did, for `mom env`."""
    return list(_done)


def keep_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensor; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(code, value) for code, value in _MALLOC.values()]  # all of them, then ask
    return all(done)


def granted_cpus(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """CPUs that the container's quota grants, rounded up; None where that is not less than all."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        granted = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return None
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, granted) if granted < (available or 1) else None
