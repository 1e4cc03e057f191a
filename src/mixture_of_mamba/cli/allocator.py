"""The memory allocator of `mom`'s own process. It changes run times, never results.

Memory that was used once stays with the process. glibc's default returns every large tensor to the
system at once; the page faults of getting it back can cost more than the kernel itself.

A library must not do this to its user's process; docs/performance.md lists the same settings as
environment variables. Threads and waiting are set by the package (startup.py).
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["SETTINGS", "configure", "keep_memory"]

#: glibc's malloc.h: name -> (code, value). Large blocks come from the heap (no mmap), which is
#: trimmed above 2 GiB only and grows by 64 MiB; one arena, because the others hold no large blocks.
_MALLOC = {
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
    "M_TOP_PAD": (-2, 64 * 2**20),
    "M_MMAP_MAX": (-4, 0),
    "M_ARENA_MAX": (-8, 1),
}
#: The setting of this process in words, for `mom env`.
SETTINGS: list[str] = []


def configure() -> None:
    """Set the allocator of this process, once. Variables of the environment take precedence."""
    if SETTINGS:
        return
    if any(name.startswith("MALLOC_") for name in os.environ):
        SETTINGS.append("allocator: as the MALLOC_ variables say")
    elif keep_memory():
        SETTINGS.append("allocator: keeps freed memory")
    else:
        SETTINGS.append("allocator: the system's defaults (not glibc)")


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next tensor; False where there is no glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    done = [mallopt(code, value) for code, value in _MALLOC.values()]  # all of them, then ask
    return all(done)
