"""Every convolution backend of the CPU against the formula in float64."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba.ops import BackendError, causal_conv1d, dispatch

from .scan_cases import Case, assert_close, conv_inputs, gradients

CASES = {
    "plain": Case(silu=False, bias=False),
    "mamba": Case(),
    "documents": Case(documents=True),
    "state": Case(state=True),
    "rows, documents, state": Case(modalities=3, documents=True, state=True),
    "strided rows": Case(modalities=2, strided=True, state=True),
    "odd channels": Case(d=67, length=70, modalities=2, documents=True, state=True),
    "one channel": Case(d=1, state=True),
    "one tap": Case(taps=1, modalities=2, state=True),
    "two taps": Case(taps=2, state=True, documents=True),
    "three taps": Case(taps=3, state=True, documents=True),
    "shorter than the taps": Case(length=2, state=True, modalities=2),
    "one step": Case(length=1, state=True),
    "one chunk and a step": Case(length=33, state=True, d=40),
    "no time": Case(length=0, state=True),
    "no batch": Case(batch=0),
}
LIMITS = {"default": 1e-6, "dweight": 3e-6, "dbias": 3e-6}


@pytest.fixture(params=["torch", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def both(case: Case, backend: str, dtype: torch.dtype) -> tuple[dict, dict]:
    inputs = conv_inputs(case)
    if dtype == torch.bfloat16:
        inputs = {k: x if x is None else x.to(dtype).double() for k, x in inputs.items()}
    options = {"activation": "silu" if case.silu else None, "routing": case.routing()}
    expected = gradients(
        causal_conv1d, inputs, {"default": torch.float64}, backend="reference", **options
    )
    found = gradients(
        causal_conv1d,
        inputs,
        {"default": dtype},
        strided=case.strided,
        backend=backend,
        **options,
    )
    return found, expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_float32_equals_the_formula(case: Case, backend: str) -> None:
    assert_close(*both(case, backend, torch.float32), LIMITS)


@pytest.mark.parametrize("name", ["rows, documents, state", "odd channels", "two taps"])
def test_bfloat16_is_near_the_formula(name: str, backend: str) -> None:
    found, expected = both(CASES[name], backend, torch.bfloat16)
    assert_close(found, expected, {"default": 1e-2})
    assert found["y"].dtype == found["final"].dtype == torch.bfloat16


def test_torch_backend_is_exact_in_float64() -> None:
    case = CASES["rows, documents, state"]
    assert_close(*both(case, "torch", torch.float64), {"default": 1e-14})


def test_two_halves_equal_the_whole(backend: str) -> None:
    inputs = {k: x.float() for k, x in conv_inputs(Case(length=46, state=True)).items()}
    x = inputs["x"].view(2, 46, -1)
    rest = {"weight": inputs["weight"], "bias": inputs["bias"], "backend": backend}
    whole, final = causal_conv1d(x, state=inputs["state"], **rest)
    first, middle = causal_conv1d(x[:, :2], state=inputs["state"], **rest)
    second, end = causal_conv1d(x[:, 2:], state=middle, **rest)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-6)
    assert torch.equal(end, final)


def test_many_taps_are_refused_by_name_and_served_by_choice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "_EXPLAINED", set())
    x, weight = torch.randn(1, 9, 8), torch.randn(8, 7)
    with pytest.raises(BackendError, match=r"1\.\.4 taps"):
        causal_conv1d(x, weight, backend="cpu")
    expected, _ = causal_conv1d(x, weight, backend="reference")
    with pytest.warns(UserWarning, match=r"1\.\.4 taps"):
        found, _ = causal_conv1d(x, weight)
    torch.testing.assert_close(found, expected)
