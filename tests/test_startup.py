"""How many threads, and how they wait: settled before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixture_of_mamba import startup
from mixture_of_mamba.startup import WAITING, granted_cores, usable_cores

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
#: Says what the environment is at the moment when torch is asked for.
SPY = """
import builtins, json, os, sys
NAMES = "GOMP_SPINCOUNT OMP_WAIT_POLICY KMP_BLOCKTIME OMP_NUM_THREADS".split()
real = builtins.__import__
def spy(name, *rest, **more):
    if name == "torch" and "torch" not in sys.modules:
        print(json.dumps({k: os.environ.get(k) for k in NAMES}))
        raise SystemExit(0)
    return real(name, *rest, **more)
builtins.__import__ = spy
"""


def environment_of_torch(start: str, given: dict[str, str]) -> dict[str, str | None]:
    import json

    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", SPY + start],
        capture_output=True, text=True, env=clean | given, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


LIBRARY = "import mixture_of_mamba\nmixture_of_mamba.MambaBlock"
SUBMODULE = "import mixture_of_mamba.layers.block"
MOM = "sys.argv[1:] = ['env']\nfrom mixture_of_mamba.__main__ import main\nmain()"


@pytest.mark.parametrize(
    "start", [LIBRARY, SUBMODULE, MOM], ids=["library", "a module of it", "mom"]
)
@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, WAITING["GOMP_SPINCOUNT"]),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_waiting_is_settled_before_torch_is_there(
    start: str, given: dict[str, str], spins: str | None
) -> None:
    assert environment_of_torch(start, given)["GOMP_SPINCOUNT"] == spins


def test_a_quota_is_the_number_of_threads_unless_the_user_says_one() -> None:
    code = "import os, pathlib\nread = pathlib.Path.read_text\n" + (
        "def told(self, *a, **k):\n"
        "    if self.name == 'cpu.max': return '100000 100000'\n"
        "    return read(self, *a, **k)\n"
        "pathlib.Path.read_text = told\n"
        "os.sched_getaffinity = lambda pid: set(range(8))\n" + LIBRARY
    )
    assert environment_of_torch(code, {})["OMP_NUM_THREADS"] == "1"
    assert environment_of_torch(code, {"OMP_NUM_THREADS": "3"})["OMP_NUM_THREADS"] == "3"


def test_nothing_is_set_where_torch_was_first_and_it_is_said() -> None:
    code = (
        "import os, torch, mixture_of_mamba.startup as s; print(os.environ.get('GOMP_SPINCOUNT'));"
        "print(*s.SETTINGS)"
    )
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True
    )
    spins, said = done.stdout.splitlines()
    assert spins == "None"
    assert "torch was imported before mixture_of_mamba" in said and "GOMP_SPINCOUNT" in said


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("50000 100000", 1),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("max 100000", None),
        ("", None),
        ("100 0", None),
    ],
)
def test_quota_of_version_2(tmp_path: Path, text: str, cores: int | None) -> None:
    group(tmp_path, cpu__max=text)
    assert granted_cores(tmp_path, tmp_path / "none") == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000", 2), ("-1", None), ("1000", 1)])
def test_quota_of_version_1(tmp_path: Path, quota: str, cores: int | None) -> None:
    group(tmp_path / "cpu", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000")
    assert granted_cores(tmp_path, tmp_path / "none") == cores


def test_the_tightest_group_above_this_process_counts(tmp_path: Path) -> None:
    """systemd's CPUQuota on a slice; the scope below it has none of its own."""
    own = tmp_path / "own"
    own.write_text("0::/user.slice/a.scope\n")
    group(tmp_path / "user.slice" / "a.scope", cpu__max="max 100000")
    group(tmp_path / "user.slice", cpu__max="300000 100000")
    assert granted_cores(tmp_path, own) == 3
    group(tmp_path / "user.slice" / "a.scope", cpu__max="200000 100000")
    assert granted_cores(tmp_path, own) == 2
    group(tmp_path / "other.slice", cpu__max="100000 100000")
    assert granted_cores(tmp_path, own) == 2


def test_the_group_of_version_1_is_found_below_its_controllers(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:memory:/m\n4:cpu,cpuacct:/docker/123\n1:name=systemd:/x\n0::/\n")
    group(
        tmp_path / "cpu,cpuacct" / "docker" / "123",
        cpu__cfs_quota_us="500000",
        cpu__cfs_period_us="250000",
    )
    assert granted_cores(tmp_path, own) == 2


def test_affinity_and_quota_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_affinity", lambda: 4)
    for quota, cores in ((None, 4), (1, 1), (3, 3), (64, 4)):
        monkeypatch.setattr(startup, "granted_cores", lambda quota=quota: quota)
        assert usable_cores() == cores
