"""Building and loading of the C++ kernels, and what happens where that fails."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixture_of_mamba.ops import BackendError, Routing, causal_conv1d, native, selective_scan

from .scan_cases import Case, conv_inputs, scan_inputs

SCAN = """
import warnings
warnings.simplefilter("always")
import torch
from mixture_of_mamba.ops import native, selective_scan
u, A, B = torch.ones(1, 5, 4), -torch.ones(4, 2), torch.ones(1, 5, 2)
y, _ = selective_scan(u, u, A, B, B)
y, _ = selective_scan(u, u, A, B, B)
print(round(float(y.sum()), 3))
print(native.describe())
"""
ANSWER = "55.963"  # 8 states of sum_t (1 - e^-t) / (1 - 1/e)


def run(tmp_path: Path, **environment: str) -> subprocess.Popen:
    here = {
        "MOM_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path / "tmp"),
        "CXXFLAGS": "-O0",  # compiles in a second
    }
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", SCAN],
        env=os.environ | here | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[list[str], str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines(), err


def failing_compiler(folder: Path) -> Path:
    path = folder / "cxx"
    path.write_text("#!/bin/sh\necho 'kernels.cpp:1: error: this compiler is broken' >&2\nexit 1\n")
    path.chmod(0o755)
    return path


def test_two_processes_at_once_both_work_and_leave_one_library(tmp_path: Path) -> None:
    both = [run(tmp_path), run(tmp_path)]
    for process in both:
        (answer, where), err = finish(process)
        assert answer == ANSWER
        assert str(tmp_path / "cache") in where
        assert "UserWarning" not in err
    assert len(list((tmp_path / "cache" / "native").iterdir())) == 1


def test_failing_compiler_is_named_once_and_the_answer_is_right(tmp_path: Path) -> None:
    (answer, where), err = finish(run(tmp_path, CXX=str(failing_compiler(tmp_path))))
    assert answer == ANSWER
    assert "this compiler is broken" in where
    assert err.count("runs on backend 'torch'") == 1
    assert "this compiler is broken" in err


def test_no_compiler_is_explained(tmp_path: Path) -> None:
    (answer, where), err = finish(run(tmp_path, CXX="no-such-compiler"))
    assert answer == ANSWER
    assert "no C++ compiler" in where
    assert "install one" in err


def test_switched_off(tmp_path: Path) -> None:
    (answer, where), _ = finish(run(tmp_path, MOM_NATIVE="0"))
    assert answer == ANSWER
    assert "MOM_NATIVE=0" in where


def test_unwritable_cache_means_kernels_for_one_process(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")  # a folder cannot be made below a file, whoever runs this
    (answer, where), said = finish(run(tmp_path, MOM_CACHE=str(blocked / "cache")))
    assert answer == ANSWER
    assert where.startswith("compiled for this process alone, because")
    assert said.count("compiled anew by every process") == 1
    assert not any((tmp_path / "tmp").iterdir())


def test_a_changed_source_flag_or_cpu_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for flags, cpu in ((("-O1",), "a"), (("-O2",), "a"), (("-O2",), "b")):
        monkeypatch.setattr(native, "FLAGS", flags)
        monkeypatch.setattr(native, "_cpu", lambda cpu=cpu: cpu)
        native.fingerprint.cache_clear()
        names.add(native.fingerprint(None))
    native.fingerprint.cache_clear()
    assert len(names) == 3


needs_kernels = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))


@needs_kernels
def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "GRAIN", 1)  # threads for the smallest work
    case = Case(batch=3, length=50, d=80, modalities=2, documents=True, state=True)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        leaves = {
            k: x if x is None else x.float().requires_grad_() for k, x in scan_inputs(case).items()
        }
        conv = {k: x.float().requires_grad_() for k, x in conv_inputs(case).items()}
        y, final = selective_scan(**leaves, delta_softplus=True, routing=case.routing())
        u, _ = causal_conv1d(**conv, routing=case.routing())
        wanted = [x for x in (*leaves.values(), *conv.values()) if x is not None]
        (y.square().sum() + final.square().sum() + u.square().sum()).backward()
        results.append([y, final, u, *(x.grad for x in wanted)])
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_little_work_is_done_by_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        found = [native.threads(n) for n in (0, 1, 65_535, 65_536, 98_304, 10**9)]
    finally:
        torch.set_num_threads(before)
    assert found == [1, 1, 1, 2, 3, 3]


@needs_kernels
@pytest.mark.parametrize("wrong", [-1, 20, 2**31 - 1])
def test_row_index_out_of_range_is_an_error(wrong: int) -> None:
    case = Case(batch=1, length=20, modalities=2)
    routing = case.routing()
    routing.rows[0, 3] = wrong
    scan = {k: x if x is None else x.float() for k, x in scan_inputs(case).items()}
    conv = {k: x if x is None else x.float() for k, x in conv_inputs(case).items()}
    with pytest.raises(ValueError, match=r"outside 0\.\.19"):
        selective_scan(**scan, delta_softplus=True, routing=routing, backend="cpu")
    with pytest.raises(ValueError, match=r"outside 0\.\.19"):
        causal_conv1d(**conv, routing=routing, backend="cpu")


@needs_kernels
def test_modality_out_of_range_is_an_error() -> None:
    case = Case(batch=1, length=20, modalities=2)
    routing = case.routing()
    routing.modality[0, 3] = 7
    scan = {k: x if x is None else x.float() for k, x in scan_inputs(case).items()}
    with pytest.raises(ValueError, match="modality"):
        selective_scan(**scan, delta_softplus=True, routing=routing, backend="cpu")


@needs_kernels
def test_what_the_kernels_do_not_serve_is_said() -> None:
    u = torch.ones(1, 4, 3, dtype=torch.float64)
    A, B = -torch.ones(3, 2, dtype=torch.float64), torch.ones(1, 4, 2, dtype=torch.float64)
    with pytest.raises(BackendError, match="float64"):
        selective_scan(u, u, A, B, B, backend="cpu")
    A, B = -torch.ones(3, 65), torch.ones(1, 4, 65)
    with pytest.raises(BackendError, match=r"1\.\.64 states"):
        selective_scan(u.float(), u.float(), A, B, B, backend="cpu")


@needs_kernels
def test_channels_that_are_not_contiguous_are_right() -> None:
    case = Case(batch=1, length=9, d=5, n=3)
    leaves = {k: x if x is None else x.float() for k, x in scan_inputs(case).items()}
    options = {"delta_softplus": True, "routing": Routing.build(torch.zeros(1, 9).long(), 1)}
    expected, _ = selective_scan(**leaves, **options, backend="cpu")
    for name in ("u", "delta", "B", "C", "z"):
        leaves[name] = leaves[name].t().contiguous().t()
    found, _ = selective_scan(**leaves, **options, backend="cpu")
    assert torch.equal(found, expected)


@needs_kernels
def test_long_sequence_keeps_the_accuracy() -> None:
    from .scan_cases import FLOAT32, FLOAT64, LIMITS, assert_close, gradients

    case = Case(batch=1, length=32768, d=16, n=4)
    inputs = scan_inputs(case)
    inputs["delta"] = inputs["delta"] - 3.0  # long memory
    options = {"delta_softplus": True, "routing": case.routing()}
    expected = gradients(selective_scan, inputs, FLOAT64, backend="torch", **options)
    found = gradients(selective_scan, inputs, FLOAT32, backend="cpu", **options)
    assert_close(found, expected, LIMITS)


BUILDS = {  # compiler, flags that take away what this machine has -> float32 lanes
    "AVX-512 without tiles": ("", "-O1 -mno-amx-bf16", 16),
    "AVX2": ("", "-O1 -mno-avx512f", 8),
    "SSE": ("", "-O1 -mno-avx", 4),
    "as NEON": ("", "-O1 -mno-avx -DMOM_STATES=8", 4),
    "small code": ("", "-Os", 0),
    "clang": ("clang++", "-O1", 0),
    "GCC 11": ("g++-11", "-O1", 0),  # Ubuntu 22.04's
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="x86 flags")
@pytest.mark.parametrize("compiler,flags,lanes", BUILDS.values(), ids=BUILDS.keys())
def test_other_builds_compute_the_same(
    tmp_path: Path, compiler: str, flags: str, lanes: int
) -> None:
    if native.why_not() is None and native.library().mom_vector_lanes() < lanes:
        pytest.skip(f"this machine has no vectors of {lanes} lanes")
    if compiler and not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    environment = {"MOM_CACHE": str(tmp_path), "CXXFLAGS": flags}
    if compiler:
        environment["CXX"] = compiler
    here = Path(__file__).parent
    names = ("selective_scan", "causal_conv1d", "decode_step", "special_values")
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"),
        *("-k", "not triton and not torch and not long and not memory"),
        *(str(here / f"test_{name}.py") for name in names),
        str(here.parent / "layers" / "test_fused.py"),
    ]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    asked = "from mixture_of_mamba.ops import native; print(native.describe())"
    told = subprocess.run(
        [sys.executable, "-c", asked],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "float32 lanes)" in told.stdout
    assert not lanes or f"({lanes} float32 lanes)" in told.stdout
