"""Every Triton kernel compiles for sm_90 and sm_80, on the installed Triton and on torch 2.11's,
within its registers, and without shuffles or spills where the time goes.

The limits have little air on purpose: a layout that a compiler changes shows here, not on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .old_triton import VERSION, install

pytest.importorskip("triton")
pytestmark = pytest.mark.xdist_group("compile gate")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "resources.py"
ARCHS = ("90", "80")
# kernel: registers, bytes of stack. The backward keeps the states of a tile and spills between its
# loops, never in them.
LIMITS = {
    "pack_kernel": (40, 0),
    "scan_forward_kernel": (168, 16),
    "scan_backward_kernel": (255, 256),
    "reduce_kernel": (48, 0),
    "segment_state_kernel": (128, 0),
    "segment_gradient_kernel": (96, 0),
    "carry_kernel": (128, 0),
    "conv_forward_kernel": (128, 0),
    "conv_backward_kernel": (192, 0),
}


def run(script: Path, *arguments: str, triton: str) -> list[str]:
    """Lines that a script prints in a process of its own: Triton is compiled or interpreted, and of
    one version, for a whole process."""
    path = [str(Path(__file__).parents[2] / "src")]
    if triton == VERSION:
        try:
            path.insert(0, str(install()))
        except RuntimeError as error:
            pytest.skip(str(error))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path)
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module", params=["installed", VERSION])
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What benchmarks/gpu/resources.py finds."""
    found = json.loads(run(SCRIPT, "--json", "--arch", *ARCHS, triton=request.param)[-1])
    if request.param == VERSION:
        assert found["triton"] == VERSION
    return found


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_stays_within_its_resources(report: dict[str, Any], arch: str) -> None:
    kernels = report["kernels"][arch]
    assert {k["kernel"] for k in kernels} == set(LIMITS)
    for kernel in kernels:
        name, (registers, stack) = kernel["kernel"], LIMITS[kernel["kernel"]]
        found = kernel["registers"], kernel["stack_bytes"]
        assert found[0] <= registers, f"{name} takes {found[0]} registers, {registers} allowed"
        assert found[1] <= stack, f"{name} spills {found[1]} bytes, {stack} allowed"


@pytest.mark.parametrize("arch", ARCHS)
def test_no_shuffles_and_no_spills_in_loops(report: dict[str, Any], arch: str) -> None:
    for kernel in report["kernels"][arch]:
        for loop in kernel["loops"]:
            unwanted = {name: n for name, n in loop.items() if name in ("SHFL", "LDL", "STL")}
            assert not unwanted, f"{kernel['kernel']}: {unwanted} in a loop of {sum(loop.values())}"


@pytest.mark.parametrize("arch", ARCHS)
def test_the_scan_takes_one_exponential_a_state(report: dict[str, Any], arch: str) -> None:
    """16 states x 8 steps a tile, and per step at most 8 more for softplus, log and the gate."""
    (forward, *_) = [k for k in report["kernels"][arch] if k["kernel"] == "scan_forward_kernel"]
    (loop,) = forward["loops"]
    assert 8 * 16 <= loop["MUFU"] <= 8 * (16 + 8)


@pytest.mark.slow
def test_every_variant_of_a_call_compiles() -> None:
    script = Path(__file__).with_name("compile_variants.py")
    assert len(run(script, "90", triton="installed")) == len(_module(script).VARIANTS)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_innermost_loops_are_found_and_counted() -> None:
    """The gate can bite: a shuffle in the inner loop is counted, one in the outer loop is not."""
    sass = """
.L_x_1:
        /*0010*/                   SHFL.BFLY PT, R1, R0, 0x1, 0x1f ;
.L_x_2:
        /*0020*/                   FADD R0, R0, R1 ;
        /*0030*/              @!P0 SHFL.BFLY PT, R2, R0, 0x2, 0x1f ;
        /*0040*/                   STL [R1], R2 ;
        /*0050*/                   FMUL R0, R0, R2 ;
        /*0060*/               @P1 BRA `(.L_x_2) ;
        /*0070*/                   SHFL.BFLY PT, R1, R0, 0x4, 0x1f ;
        /*0080*/               @P2 BRA `(.L_x_1) ;
        /*0090*/                   EXIT ;
"""
    (loop,) = _module(SCRIPT)._loops(sass)
    assert loop == {"FADD": 1, "SHFL": 1, "STL": 1, "FMUL": 1, "BRA": 1}
