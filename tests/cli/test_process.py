"""The settings of mom's own process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mixture_of_mamba.cli.process import granted_cpus

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "set":
    from mixture_of_mamba.cli.process import configure
    configure()
x = torch.ones(1 << 24)  # 64 MiB: glibc adapts to smaller blocks by itself
for i in range(20):
    if i == 4:
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


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "3000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_waiting_is_set_before_torch_is_there(given: dict[str, str], expected: str | None) -> None:
    """What the program `mom` starts with, as installed: OpenMP reads it when torch is loaded."""
    code = (
        "import sys, os, importlib.metadata as m, builtins\n"
        "entry = m.entry_points(group='console_scripts')['mom']\n"
        "real = builtins.__import__\n"
        "def spy(name, *rest, **more):\n"
        "    if name == 'torch':\n"
        "        print(os.environ.get('GOMP_SPINCOUNT'))\n"
        "        raise SystemExit(0)\n"
        "    return real(name, *rest, **more)\n"
        "run = entry.load()\n"
        "assert 'torch' not in sys.modules\n"
        "builtins.__import__ = spy\n"
        "run()\n"
    )
    clean = {k: v for k, v in os.environ.items()
             if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | given, check=True
    )
    assert done.stdout.split() == [str(expected)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50000 100000", 1), ("max 100000", None), ("99999900000 100000", None), ("", None)],
)
def test_quota_of_a_container(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    found = granted_cpus(tmp_path)
    assert found == expected or (expected == 1 and found is None and _one_cpu())


def test_no_cgroup_means_no_quota(tmp_path: Path) -> None:
    assert granted_cpus(tmp_path) is None


def _one_cpu() -> bool:
    import os

    return len(os.sched_getaffinity(0)) == 1
