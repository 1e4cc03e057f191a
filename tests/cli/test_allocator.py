"""The allocator of mom's own process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "set":
    from mixture_of_mamba.cli.allocator import configure
    configure()
x = torch.ones(1 << 24)  # 64 MiB: glibc adapts to smaller blocks by itself
for i in range(40):  # the heap grows in the first ones
    if i == 24:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    y = x * 2
    del y
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_tensors_reuse_memory_instead_of_faulting_it_in() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    # 16 results of 16,384 pages each; a kept heap touches a few places once.
    assert faults("set") <= 3 * 16384 < 15 * 16384 <= faults("plain")
