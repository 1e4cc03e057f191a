"""The allocator of `mom`'s own process. It touches no result, only time.

Memory that was used once stays with the process. glibc's default returns every large tensor to the
system at once; the page faults of getting it back can cost more than the kernel itself.

A library must not do this to its user's process; docs/performance.md lists the same settings as
environment variables. Threads and waiting are the package's (startup.py).
"""

from __future__ import annotations

import ctypes
import os
import platform

from .. import startup

__all__ = ["configure", "keep_memory", "settings"]

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
    if any(name.startswith("MALLOC_") for name in os.environ):
        _done.append("allocator: as the MALLOC_ variables say")
    elif keep_memory():
        _done.append("allocator: keeps freed memory")
    else:
        _done.append("allocator: the system's defaults (not glibc)")


def settings() -> list[str]:
    """What holds in this process, for `mom env`."""
    return [*startup.SETTINGS, *_done]


def keep_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensor; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(code, value) for code, value in _MALLOC.values()]  # all of them, then ask
    return all(done)
