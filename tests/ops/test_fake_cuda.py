"""Whole models on a CUDA device that is not there: what runs, where, in which dtype, what waits.

Values are not computed; those are held to the formula by the interpreter's tests. What is checked
is all that surrounds them: the choice of backends, the code that prepares and launches kernels, the
fakes that torch.compile believes, and that no step reads anything back from the device.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fake_cuda import compile_runtime

pytest.importorskip("triton")
pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for CUDA is loaded by ld.so"),
    pytest.mark.xdist_group("fake cuda"),
]

SCRIPT = Path(__file__).with_name("fake_cuda_checks.py")
KINDS = [
    *("training", "advancing", "another_device", "projection", "tests_for_a_gpu"),
    *("scan_size", "conv_size", "choice", "refused"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Check -> what went wrong, or nothing; from a process that believes to have two GPUs."""
    try:
        library = compile_runtime(tmp_path_factory.mktemp("fake_cuda"))
    except RuntimeError as error:
        pytest.skip(f"the stand-in for CUDA does not compile here: {error}")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"LD_PRELOAD": str(library), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(library)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_device_that_is_not_there(results: dict[str, str], kind: str) -> None:
    mine = {name: error for name, error in results.items() if re.match(rf"{kind}\b", name)}
    assert mine
    failed = {name: error for name, error in mine.items() if error}
    assert not failed, "\n".join(f"{name}\n{error}" for name, error in failed.items())


def test_every_check_is_of_a_kind(results: dict[str, str]) -> None:
    assert {name.partition(":")[0] for name in results} == set(KINDS)
