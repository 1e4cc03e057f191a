"""Every Triton kernel compiles for sm_90 and sm_80, on the installed Triton and on torch 2.11's,
within its registers, and without shuffles or spills where the time goes.

The limits have little air on purpose: a layout that a compiler changes shows here, not on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .old_triton import VERSION, install

pytest.importorskip("triton")
pytestmark = pytest.mark.xdist_group("compile gate")

ROOT = Path(__file__).parents[2]
RESOURCES = ("-m", "benchmarks", "resources")
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
# In float32 the sums over channels take three products each, whose operands do not all fit.
FLOAT32_BACKWARD_STACK, FLOAT32_BACKWARD_SPILLS = 512, 64


def run(*arguments: str, triton: str) -> list[str]:
    """Lines that Python prints with these arguments, in a process of its own: Triton is compiled or
    interpreted, and of one version, for a whole process."""
    path = [str(ROOT / "src")]
    if triton == VERSION:
        try:
            path.insert(0, str(install()))
        except RuntimeError as error:
            pytest.skip(str(error))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module", params=["installed", VERSION])
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the benchmark `resources` finds."""
    found = json.loads(run(*RESOURCES, "--json", "--arch", *ARCHS, triton=request.param)[-1])
    if request.param == VERSION:
        assert found["triton"] == VERSION
    return found


def check_resources(kernels: list[dict[str, Any]], limits: dict[str, tuple[int, int]]) -> None:
    assert {k["kernel"] for k in kernels} == set(limits)
    for kernel in kernels:
        name, (registers, stack) = kernel["kernel"], limits[kernel["kernel"]]
        found = kernel["registers"], kernel["stack_bytes"]
        assert found[0] <= registers, f"{name} takes {found[0]} registers, {registers} allowed"
        assert found[1] <= stack, f"{name} spills {found[1]} bytes, {stack} allowed"


def unwanted_in_loops(kernel: dict[str, Any]) -> dict[str, int]:
    """Shuffles and spills in innermost loops, which every kernel but the packing has."""
    name, loops = kernel["kernel"], kernel["loops"]
    assert bool(loops) is (name != "pack_kernel"), f"{len(loops)} loops were found in {name}"
    counts = {bad: sum(loop.get(bad, 0) for loop in loops) for bad in ("SHFL", "LDL", "STL")}
    return {bad: count for bad, count in counts.items() if count}


@pytest.mark.parametrize("arch", ARCHS)
def test_every_kernel_stays_within_its_resources(report: dict[str, Any], arch: str) -> None:
    check_resources(report["kernels"][arch], LIMITS)


@pytest.mark.parametrize("arch", ARCHS)
def test_no_shuffles_and_no_spills_in_loops(report: dict[str, Any], arch: str) -> None:
    for kernel in report["kernels"][arch]:
        unwanted = unwanted_in_loops(kernel)
        assert not unwanted, f"{kernel['kernel']}: {unwanted} in its loops"


def test_float32_stays_within_its_resources() -> None:
    """As 16 bits do, but for the scan's backward, whose few spills in the loop may not grow."""
    arguments = ("--json", "--arch", "90", "--dtype", "float32")
    kernels = json.loads(run(*RESOURCES, *arguments, triton="installed")[-1])["kernels"]["90"]
    limits = {**LIMITS, "scan_backward_kernel": (255, FLOAT32_BACKWARD_STACK)}
    check_resources(kernels, limits)
    for kernel in kernels:
        unwanted = unwanted_in_loops(kernel)
        assert "SHFL" not in unwanted, f"{kernel['kernel']}: {unwanted} in its loops"
        allowed = FLOAT32_BACKWARD_SPILLS if kernel["kernel"] == "scan_backward_kernel" else 0
        assert sum(unwanted.values()) <= allowed, f"{kernel['kernel']}: {unwanted} in its loops"


@pytest.mark.parametrize("arch", ARCHS)
def test_the_scan_takes_one_exponential_a_state(report: dict[str, Any], arch: str) -> None:
    """16 states x 8 steps a tile, and per step at most 8 more for softplus, log and the gate."""
    (forward, *_) = [k for k in report["kernels"][arch] if k["kernel"] == "scan_forward_kernel"]
    (loop,) = forward["loops"]
    assert 8 * 16 <= loop["MUFU"] <= 8 * (16 + 8)


@pytest.mark.slow
def test_every_variant_of_a_call_compiles_and_large_ones_take_64_bit_offsets() -> None:
    lines = run("-m", "tests.ops.compile_variants", "90", triton="installed")
    assert len(lines) == len(import_module("tests.ops.compile_variants").VARIANTS)
    wide = [line for line in lines if line.endswith("64-bit row offsets")]
    assert [line.partition(":")[0] for line in wide] == ["scan, 2^31 elements"]


def test_a_launch_shape_of_the_tuning_compiles_without_a_gpu() -> None:
    """In the worker processes of the benchmark `gpu`, where a failure is only a note."""
    job = ("conv", "FORWARD", (128, 1, 8), 90)
    run("-c", f"from benchmarks.gpu import tuning; tuning.compile_one({job})", triton="installed")


def test_a_kernel_whose_loops_were_not_found_does_not_pass() -> None:
    kernel = {"kernel": "scan_forward_kernel", "loops": []}
    with pytest.raises(AssertionError, match="0 loops were found in scan_forward_kernel"):
        unwanted_in_loops(kernel)
    assert unwanted_in_loops({**kernel, "loops": [{"SHFL": 2, "FADD": 9}]}) == {"SHFL": 2}


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
    (loop,) = import_module("benchmarks.gpu.resources")._loops(sass)
    assert loop == {"FADD": 1, "SHFL": 1, "STL": 1, "FMUL": 1, "BRA": 1}
