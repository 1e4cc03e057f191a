"""Every scan backend of the CPU against the formula in float64: outputs, final state, gradients."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba.ops import selective_scan

from .scan_cases import FLOAT32, FLOAT64, LIMITS, Case, assert_close, gradients, scan_inputs

CASES = {
    "plain": Case(gate=False, skip=False, softplus=False, bias=False),
    "mamba": Case(),
    "documents": Case(documents=True),
    "state": Case(state=True),
    "rows, biases, documents, state": Case(modalities=3, documents=True, state=True),
    "strided rows": Case(modalities=2, strided=True, state=True),
    "one channel, one state": Case(d=1, n=1, state=True, bias=False),
    "odd": Case(d=67, n=5, length=19, modalities=2),
    "many states": Case(d=9, n=64, length=33, documents=True),
    "odd states above a chunk": Case(d=17, n=23, length=50),
    "one step": Case(length=1, modalities=2, state=True),
    "one chunk": Case(length=16, state=True),
    "one chunk and a step": Case(length=17, state=True),
    "several chunks": Case(batch=1, length=130, d=40, state=True, modalities=2, documents=True),
    "no time": Case(length=0, state=True),
    "no batch": Case(batch=0),
}
BFLOAT16 = {
    "default": torch.bfloat16,
    **dict.fromkeys(("A", "D", "delta_bias", "state"), torch.float32),
}


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_float32_equals_the_formula(case: Case, backend: str) -> None:
    inputs, routing = scan_inputs(case), case.routing()
    options = {"delta_softplus": case.softplus, "routing": routing}
    expected = gradients(selective_scan, inputs, FLOAT64, backend="reference", **options)
    found = gradients(
        selective_scan, inputs, FLOAT32, strided=case.strided, backend=backend, **options
    )
    assert_close(found, expected, LIMITS)


def test_autocast_changes_no_bit(backend: str) -> None:
    """The caller chose the dtypes; states stay float32, forward and backward."""
    case = CASES["several chunks"]
    inputs, routing = scan_inputs(case), case.routing()
    options = {"delta_softplus": True, "routing": routing, "backend": backend}
    expected = gradients(selective_scan, inputs, FLOAT32, **options)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(selective_scan, inputs, FLOAT32, **options)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["rows, biases, documents, state", "odd", "many states"])
def test_bfloat16_is_near_the_formula(name: str, backend: str) -> None:
    case = CASES[name]
    inputs, routing = scan_inputs(case), case.routing()
    inputs = {
        k: x if x is None else x.to(BFLOAT16.get(k, torch.bfloat16)).double()
        for k, x in inputs.items()
    }
    options = {"delta_softplus": case.softplus, "routing": routing}
    expected = gradients(selective_scan, inputs, FLOAT64, backend="reference", **options)
    found = gradients(selective_scan, inputs, BFLOAT16, backend=backend, **options)
    assert_close(found, expected, {"default": 1e-2})
    assert found["y"].dtype == torch.bfloat16
    assert found["final"].dtype == torch.float32


@pytest.mark.parametrize("name", ["mamba", "rows, biases, documents, state", "many states"])
def test_torch_backend_is_exact_in_float64(name: str) -> None:
    case = CASES[name]
    inputs, options = scan_inputs(case), {"delta_softplus": True, "routing": case.routing()}
    expected = gradients(selective_scan, inputs, FLOAT64, backend="reference", **options)
    found = gradients(selective_scan, inputs, FLOAT64, backend="torch", **options)
    assert_close(found, expected, {"default": 1e-13})


def test_final_state_without_gradient(backend: str) -> None:
    case = CASES["rows, biases, documents, state"]
    inputs, options = scan_inputs(case), {"delta_softplus": True, "routing": case.routing()}
    expected = gradients(
        selective_scan, inputs, FLOAT64, backend="reference", final=False, **options
    )
    found = gradients(selective_scan, inputs, FLOAT32, backend=backend, final=False, **options)
    assert_close(found, expected, LIMITS)


def test_two_halves_equal_the_whole(backend: str) -> None:
    case = Case(length=46, state=True)
    inputs = {k: x if x is None else x.float() for k, x in scan_inputs(case).items()}
    per_token = ("u", "delta", "B", "C", "z")
    for name in per_token:
        inputs[name] = inputs[name].view(case.batch, case.length, -1)
    options = {"delta_softplus": True, "backend": backend}
    whole, final = selective_scan(**inputs, **options)
    first = {**inputs, **{name: inputs[name][:, :21] for name in per_token}}
    y0, middle = selective_scan(**first, **options)
    second = {**inputs, **{name: inputs[name][:, 21:] for name in per_token}, "state": middle}
    y1, end = selective_scan(**second, **options)
    torch.testing.assert_close(torch.cat([y0, y1], 1), whole, rtol=0, atol=2e-6)
    torch.testing.assert_close(end, final, rtol=0, atol=2e-6)


def test_nan_in_delta_stays_in_its_channel_and_after_its_step(backend: str) -> None:
    case = Case(batch=1, length=20, d=8)
    inputs = {k: x if x is None else x.float() for k, x in scan_inputs(case).items()}
    options = {"delta_softplus": True, "routing": case.routing(), "backend": backend}
    clean, _ = selective_scan(**inputs, **options)
    inputs["delta"][7, 3] = float("nan")
    y, _ = selective_scan(**inputs, **options)
    assert y[7:, 3].isnan().all()
    keep = torch.ones_like(y, dtype=torch.bool)
    keep[7:, 3] = False
    assert torch.equal(y[keep], clean[keep])
