"""Cases that every scan backend meets, against the formula in float64: modalities without tokens,
and states that fill neither a vector, nor a lane, nor a power of two.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.ops import selective_scan
from mixture_of_mamba.ops.selective_scan import triton as triton_backend
from mixture_of_mamba.ops.selective_scan.triton_call import Call

from .scan_cases import Case, assert_close, gradients, scan_inputs
from .triton_device import DEVICE, to_device

CASES = {
    "the first modality is empty": Case(
        length=5, d=3, n=2, modalities=3, absent=0, documents=True, state=True
    ),
    "a modality between is empty": Case(length=5, d=3, n=2, modalities=3, absent=1),
    "the last modality is empty": Case(length=5, d=3, n=2, modalities=3, absent=2, state=True),
    "all tokens of one of two": Case(length=9, d=3, n=2, modalities=2, absent=0, state=True),
    "17 states": Case(batch=1, length=3, d=5, n=17, state=True),
    "20 states": Case(batch=1, length=9, d=17, n=20, modalities=2, documents=True, state=True),
    "33 states": Case(batch=1, length=9, d=17, n=33, modalities=2, documents=True, state=True),
    "64 states": Case(batch=1, length=4, d=16, n=64, state=True),
}
LIMITS = {"default": 2e-6, **dict.fromkeys(("dA", "dD", "ddelta_bias", "ddelta"), 5e-6)}


@pytest.fixture(params=["torch", "cpu", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
        if DEVICE == "cpu":
            monkeypatch.setenv("TRITON_INTERPRET", "1")
        # Few steps make several chunks.
        monkeypatch.setattr(triton_backend, "EVERY", 8)
    name: str = request.param
    return name


def _formula(case: Case) -> dict[str, Tensor]:
    return _gradients(case, torch.float64, "cpu", "reference")


def _gradients(case: Case, dtype: torch.dtype, device: str, backend: str) -> dict[str, Tensor]:
    routing: Any = case.routing()
    found = gradients(
        selective_scan,
        {k: None if x is None else x.to(device) for k, x in scan_inputs(case).items()},
        {"default": dtype},
        routing=to_device(routing) if device != "cpu" else routing,
        delta_softplus=case.softplus,
        backend=backend,
    )
    return {name: x.cpu() for name, x in found.items()}


def _run(case: Case, backend: str) -> dict[str, Tensor]:
    device = DEVICE if backend == "triton" else "cpu"
    return _gradients(case, torch.float32, device, backend)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_formula(case: Case, backend: str) -> None:
    found = _run(case, backend)
    assert_close(found, _formula(case), LIMITS)
    if case.absent is not None:
        assert not found["ddelta_bias"][case.absent].any()
        assert found["ddelta_bias"].any()


@pytest.mark.parametrize("segment", [8, 16])
def test_64_bit_row_offsets_change_no_bit(segment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows further apart than 2^31 elements would not fit here, so the kernels are told that they
    are; that a call of such a size takes this way is in test_compile_gate.py."""
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_backend, "EVERY", 8)
    monkeypatch.setattr(triton_backend, "segment_length", lambda inputs, tiles: segment)
    case = Case(batch=1, length=11, d=3, n=2, modalities=2, documents=True, state=True)
    narrow = _run(case, "triton")
    launch, told = Call.launch, []

    def wide(self: Call, kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        if "LONG_OFFSETS" in kernel.arg_names:
            told.append(kernel.__name__)
            arguments["LONG_OFFSETS"] = True
        launch(self, kernel, grid, **arguments)

    monkeypatch.setattr(Call, "launch", wide)
    found = _run(case, "triton")
    assert {"scan_forward_kernel", "scan_backward_kernel"} <= set(told)
    assert ("segment_state_kernel" in told) is (segment < case.length)
    assert all(torch.equal(found[name], narrow[name]) for name in narrow)
    assert_close(found, _formula(case), LIMITS)
