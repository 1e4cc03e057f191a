"""The Triton kernels on a GPU, in 16 bits and at sizes that fill it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from mixture_of_mamba.ops import Routing, causal_conv1d, modality_linear, selective_scan
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import triton as scan_backend

from ..ops.gpu_cases import CASES, LIMITS, dtypes_of, rounded
from ..ops.scan_cases import Case, assert_close, conv_inputs, gradients, scan_inputs
from ..ops.triton_device import to_device

DEVICE = "cuda"


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_scan_equals_the_formula(case: Case, dtype: torch.dtype) -> None:
    inputs = {k: None if x is None else x.to(DEVICE) for k, x in scan_inputs(case).items()}
    inputs = rounded(inputs, dtype)
    routing = to_device(case.routing())
    call = partial(selective_scan, delta_softplus=True, routing=routing)
    state = {"state": torch.float32}
    expected = gradients(call, inputs, {"default": torch.float64}, backend="reference")
    found = gradients(call, inputs, dtypes_of(dtype) | state, backend="triton")
    assert_close(found, expected, LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("case", list(CASES.values())[:2], ids=list(CASES)[:2])
def test_conv_equals_the_formula(case: Case, dtype: torch.dtype) -> None:
    inputs = {k: None if x is None else x.to(DEVICE) for k, x in conv_inputs(case).items()}
    inputs = rounded(inputs, dtype)
    call = partial(causal_conv1d, routing=to_device(case.routing()))
    expected = gradients(call, inputs, {"default": torch.float64}, backend="reference")
    found = gradients(call, inputs, dtypes_of(dtype), backend="triton")
    assert_close(found, expected, LIMITS[dtype])


def test_the_segmented_case_is_segmented() -> None:
    case = CASES["cut into segments"]
    rows = torch.empty(case.length, case.d, device=DEVICE)
    inputs = scan_backend.ScanInputs(
        rows, rows, torch.empty(case.d, 16, device=DEVICE), rows[:, :16], rows[:, :16],
        None, None, None, None, RowIndex(None, None, None, 1, case.length), True,
    )  # fmt: skip
    assert scan_backend.segment_length(inputs, scan_backend.FORWARD) < case.length


def test_the_scan_gives_the_same_bits_twice() -> None:
    case = Case(batch=4, length=512, d=256, modalities=2, documents=True)
    inputs = {k: None if x is None else x.to(DEVICE) for k, x in scan_inputs(case).items()}
    call = partial(
        gradients, selective_scan, inputs, dtypes_of(torch.bfloat16), delta_softplus=True,
        routing=to_device(case.routing()), backend="triton",
    )  # fmt: skip
    first, second = call(), call()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("counts", [(300, 212), (511, 1), (0, 512), (200, 0, 312)])
@pytest.mark.parametrize("known", [True, False], ids=["host counts", "no host counts"])
def test_projections_equal_the_formula(counts: tuple[int, ...], known: bool) -> None:
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[None]
    routing = to_device(Routing.build(ids, len(counts)))
    if not known:
        routing = replace(routing, host_offsets=None)
    leaves = [
        torch.randn(512, 64, device=DEVICE).bfloat16().requires_grad_(),
        torch.randn(len(counts), 96, 64, device=DEVICE).bfloat16().requires_grad_(),
        torch.randn(len(counts), 96, device=DEVICE).bfloat16().requires_grad_(),
    ]
    dy = torch.randn(512, 96, device=DEVICE).bfloat16()
    exact = [x.detach().double().requires_grad_() for x in leaves]
    y = modality_linear(*leaves, routing=routing)
    truth = modality_linear(*exact, routing=routing, backend="reference")
    found = torch.autograd.grad(y, leaves, dy)
    expected = torch.autograd.grad(truth, exact, dy.double())
    for a, b in zip((y, *found), (truth, *expected), strict=True):
        assert (a.double() - b).norm() <= 1e-2 * b.norm()
    empty = [m for m, count in enumerate(counts) if not count]
    assert not found[1][empty].any() and not found[2][empty].any()
