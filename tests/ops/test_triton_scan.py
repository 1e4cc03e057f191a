"""The Triton scan against the formula in float64: outputs, final state and every gradient.

Tiles are 8 steps forward and 4 backward, blocks 64 and 32 channels; the cases stand on both sides
of these edges. Checkpoints are every 8 steps here, so that few steps make several chunks.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mixture_of_mamba.ops import BackendError, selective_scan
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import triton as backend

from .scan_cases import Case, assert_close, gradients, scan_inputs
from .triton_device import DEVICE, interpreter, to_device

__all__ = ["interpreter"]

CASES = {
    "whole tiles": Case(batch=1, length=8, d=64),
    "plain, a step above a tile": Case(
        batch=1, length=9, d=33, n=4, gate=False, skip=False, softplus=False, bias=False
    ),
    "a step below a tile": Case(length=7, d=31, n=2),
    "one step": Case(length=1, d=3, n=5, modalities=2, state=True),
    "rows, biases, documents, state": Case(
        length=11, d=37, n=5, modalities=3, documents=True, state=True
    ),
    "strided rows": Case(batch=1, length=4, d=5, n=3, modalities=2, strided=True, state=True),
    "one channel, one state": Case(length=3, d=1, n=1, state=True),
    "no time": Case(length=0, state=True),
    "no batch": Case(batch=0),
}
FLOAT64, FLOAT32 = {"default": torch.float64}, {"default": torch.float32}
LIMITS = {"default": 2e-6, **dict.fromkeys(("dA", "dD", "ddelta_bias", "ddelta"), 5e-6)}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "EVERY", 8)


def triton_scan(case: Case, **options: object) -> dict[str, torch.Tensor]:
    inputs = {k: None if x is None else x.to(DEVICE) for k, x in scan_inputs(case).items()}
    found = gradients(
        selective_scan,
        inputs,
        FLOAT32,
        strided=case.strided,
        routing=to_device(case.routing()),
        delta_softplus=case.softplus,
        backend="triton",
        **options,  # type: ignore[arg-type]
    )
    return {name: x.cpu() for name, x in found.items()}


def formula(case: Case, **options: object) -> dict[str, torch.Tensor]:
    return gradients(
        selective_scan,
        scan_inputs(case),
        FLOAT64,
        routing=case.routing(),
        delta_softplus=case.softplus,
        backend="reference",
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_formula(case: Case) -> None:
    assert_close(triton_scan(case), formula(case), LIMITS)


def test_chunks_are_recomputed_from_their_checkpoints() -> None:
    case = Case(batch=1, length=21, d=2, n=2, modalities=2, documents=True, state=True)
    assert_close(triton_scan(case), formula(case), LIMITS)


@pytest.mark.parametrize("documents", [False, True])
def test_segments_in_parallel_equal_the_whole(
    documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "segment_length", lambda inputs, tiles: 8)
    case = Case(length=19, d=5, n=3, modalities=2, documents=documents, state=True)
    assert_close(triton_scan(case), formula(case), LIMITS)


def test_one_segment_of_time_without_a_start_or_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "segment_length", lambda inputs, tiles: 8)
    case = Case(batch=1, length=16, d=3, n=2, gate=False, bias=False, skip=False)
    assert_close(triton_scan(case, final=False), formula(case, final=False), LIMITS)


def test_the_same_bits_twice() -> None:
    case = Case(batch=1, length=5, d=70, n=2, modalities=2)
    first, second = triton_scan(case), triton_scan(case)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_small_batch_is_cut_into_segments_and_a_large_one_is_not() -> None:
    def segment(batch: int, length: int, d: int) -> int:
        rows = torch.empty(batch * length, d, device="meta")
        maps = torch.empty(batch * length, 16, device="meta")
        inputs = backend.ScanInputs(
            u=rows, delta=rows, A=torch.empty(d, 16, device="meta"), B=maps, C=maps, D=None, z=None,
            delta_bias=None, state=None, row_index=RowIndex(None, None, None, batch, length),
            softplus=True,
        )  # fmt: skip
        return backend.segment_length(inputs, backend.FORWARD)

    assert segment(8, 4096, 4096) == 4096
    assert segment(1, 4096, 1536) < 4096
    assert segment(1, 4096, 1536) % backend.EVERY == 0
    assert segment(1, 10, 64) == 10


def test_cpu_tensors_are_refused_outside_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x = torch.ones(1, 2, 3)
    with pytest.raises(BackendError, match="it needs a CUDA tensor, and this one is on the CPU"):
        selective_scan(x, x, -torch.ones(3, 2), x[..., :2], x[..., :2], backend="triton")


@pytest.mark.parametrize(
    ("dtype", "states", "message"),
    [
        (torch.float64, 2, r"u is torch\.float64; it serves float32"),
        (torch.float32, 65, "A has 65 states a channel; it keeps at most 64 in registers"),
    ],
)
def test_limits_are_named(dtype: torch.dtype, states: int, message: str) -> None:
    x = torch.ones(1, 2, 3, dtype=dtype, device=DEVICE)
    maps = torch.ones(1, 2, states, dtype=dtype, device=DEVICE)
    with pytest.raises(BackendError, match=message):
        selective_scan(x, x, -x.new_ones(3, states), maps, maps, backend="triton")


def test_a_scan_on_the_cpu_imports_no_kernel() -> None:
    code = (
        "import sys, torch, mixture_of_mamba.ops as ops; x = torch.ones(1, 2, 3);"
        "ops.selective_scan(x, x, -torch.ones(3, 2), x[..., :2], x[..., :2], backend='torch');"
        "found = [m for m in sys.modules if m.startswith('mixture_of_mamba') and 'triton_' in m];"
        "assert not set(found) - {'mixture_of_mamba.ops.triton_support'}, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
