"""Two processes under each wrapper of torch make the parameters that one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import two_processes

SCRIPT = Path(two_processes.__file__)


@pytest.fixture(scope="module")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    out = folder / "differences.json"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(SCRIPT.parents[2] / "src"),
    }
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                str(SCRIPT),
                str(rank),
                str(folder / "store"),
                str(out),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert out.is_file(), "\n".join(errors)[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", two_processes.WRAPPERS)
def test_two_processes_equal_one(differences: dict[str, Any], wrapper: str) -> None:
    found = differences.get(wrapper, "an earlier wrapper failed")
    assert not isinstance(found, str), found
    assert found <= 1e-5
