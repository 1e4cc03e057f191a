"""The Triton convolution against the formula in float64: outputs, final state, every gradient.

Tiles are 8 steps and blocks 256 and 128 channels; chunks are 8 steps here, so that few steps make
several programs. The cases stand on both sides of these edges.
"""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba.ops import BackendError, causal_conv1d
from mixture_of_mamba.ops.causal_conv1d import triton as backend

from .scan_cases import Case, assert_close, conv_inputs, gradients
from .triton_device import DEVICE, interpreter, to_device

__all__ = ["interpreter"]

CASES = {
    "whole chunk": Case(batch=1, length=8, d=16),
    "a step above a chunk, rows, documents, state": Case(
        length=9, d=7, modalities=2, documents=True, state=True
    ),
    "a step below a chunk": Case(length=7, d=3, bias=False, silu=False, state=True),
    "three chunks, documents": Case(batch=1, length=19, d=5, documents=True, modalities=3),
    "above a block": Case(batch=1, length=3, d=260, state=True),
    "shorter than the taps": Case(length=2, d=3, state=True),
    "one step": Case(length=1, d=2, modalities=2, state=True),
    "two taps": Case(batch=1, length=10, d=3, taps=2, state=True, documents=True),
    "one tap": Case(batch=1, length=9, d=3, taps=1),
    "eight taps": Case(batch=1, length=11, d=3, taps=8, state=True, documents=True),
    "strided rows": Case(batch=1, length=5, d=3, strided=True, modalities=2),
    "no time": Case(length=0, state=True),
    "no batch": Case(batch=0),
}
FLOAT64, FLOAT32 = {"default": torch.float64}, {"default": torch.float32}
LIMITS = {"default": 2e-6}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CHUNK", 8)


def triton_conv(case: Case, **options: object) -> dict[str, torch.Tensor]:
    inputs = {k: None if x is None else x.to(DEVICE) for k, x in conv_inputs(case).items()}
    found = gradients(
        causal_conv1d,
        inputs,
        FLOAT32,
        strided=case.strided,
        routing=to_device(case.routing()),
        activation="silu" if case.silu else None,
        backend="triton",
        **options,  # type: ignore[arg-type]
    )
    return {name: x.cpu() for name, x in found.items()}


def formula(case: Case, **options: object) -> dict[str, torch.Tensor]:
    return gradients(
        causal_conv1d,
        conv_inputs(case),
        FLOAT64,
        routing=case.routing(),
        activation="silu" if case.silu else None,
        backend="reference",
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_the_formula(case: Case) -> None:
    assert_close(triton_conv(case), formula(case), LIMITS)


def test_without_a_gradient_of_the_final_state() -> None:
    case = Case(batch=1, length=9, d=3, state=True)
    assert_close(triton_conv(case, final=False), formula(case, final=False), LIMITS)


def test_the_same_bits_twice() -> None:
    case = Case(batch=1, length=9, d=5, modalities=2, documents=True, state=True)
    first, second = triton_conv(case), triton_conv(case)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_limits_are_named() -> None:
    x = torch.ones(1, 2, 3, device=DEVICE)
    with pytest.raises(BackendError, match="weight has 9 taps; it keeps at most 8 in registers"):
        causal_conv1d(x, x.new_ones(3, 9), backend="triton")
    with pytest.raises(BackendError, match=r"x is torch\.float64; it serves float32"):
        causal_conv1d(x.double(), x.new_ones(3, 4).double(), backend="triton")
