"""Backend "grouped" against the formula: any sizes, empty and tiny groups, strided rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mixture_of_mamba.ops import BackendError, Routing, modality_linear
from mixture_of_mamba.ops.dispatch import choose
from mixture_of_mamba.ops.modality_linear import LinearInputs, grouped

COUNTS = {
    "balanced": (12, 12, 12),
    "one empty": (20, 0, 16),
    "ends empty": (0, 36, 0),
    "tiny": (1, 34, 1),
    "no rows": (0, 0, 0),
}


def _routing(counts: tuple[int, ...]) -> Routing:
    ids = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Routing.build(ids[None], len(counts))


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, routing: Routing, backend: str
) -> list[Tensor]:
    leaves = [v.detach().clone().requires_grad_() for v in (x, weight, bias) if v is not None]
    full = leaves if bias is not None else [*leaves, None]
    y = modality_linear(*full, routing=routing, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("width", "out"), [(16, 32), (3, 32), (16, 5), (7, 1)])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_grouped_equals_the_formula(counts, width, out, bias):
    routing = _routing(counts)
    x = torch.randn(sum(counts), width, dtype=torch.float64)
    weight = torch.randn(3, out, width, dtype=torch.float64)
    offset = torch.randn(3, out, dtype=torch.float64) if bias else None
    expected = _run(x, weight, offset, routing, "reference")
    single = [v if v is None else v.float() for v in (x, weight, offset)]
    found = _run(*single, routing, "grouped")
    for name, a, b in zip(("y", "dx", "dw", "db"), found, expected, strict=False):
        torch.testing.assert_close(
            a.double(), b, rtol=1e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_rows_may_be_slices_of_wider_rows(shift):
    routing = _routing((12, 0, 24))
    x = torch.randn(36, 29)[:, shift : shift + 16]
    weight = torch.randn(3, 8, 16)
    expected = modality_linear(x.double(), weight.double(), routing=routing, backend="reference")
    found = modality_linear(x, weight, routing=routing, backend="grouped")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_expanded_gradients_are_served():
    routing = _routing((3, 5))
    x = torch.randn(8, 16, requires_grad=True)
    weight = torch.randn(2, 8, 16, requires_grad=True)
    modality_linear(x, weight, routing=routing, backend="grouped").sum().backward()
    torch.testing.assert_close(x.grad[0], weight[0].sum(0).detach())


def test_low_precision_equals_the_loop():
    routing = _routing((9, 0, 27))
    x, weight = torch.randn(36, 16).bfloat16(), torch.randn(3, 24, 16).bfloat16()
    for a, b in zip(
        _run(x, weight, None, routing, "grouped"),
        _run(x, weight, None, routing, "loop"),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_flops_are_counted_once_for_all_backends():
    routing = _routing((4, 6))
    for backend in ("grouped", "loop"):
        with FlopCounterMode(display=False) as counter:
            _run(torch.randn(10, 16), torch.randn(2, 8, 16), None, routing, backend)
        assert counter.get_total_flops() == 3 * 2 * 10 * 16 * 8


def test_automatic_choice_on_the_cpu_is_the_loop():
    x, weight = torch.randn(4, 16), torch.randn(2, 8, 16)
    offsets = torch.tensor([1, 4], dtype=torch.int32)
    assert choose("modality_linear", LinearInputs(x, weight, None, offsets, offsets))[0] == "loop"


def test_float64_is_refused_by_name():
    routing = _routing((4, 6))
    with pytest.raises(BackendError, match=r"F\.grouped_mm has no torch\.float64.*'loop'"):
        modality_linear(
            torch.randn(10, 16).double(),
            torch.randn(2, 8, 16).double(),
            routing=routing,
            backend="grouped",
        )


@pytest.mark.parametrize(
    ("ends", "known", "dtype", "loop"),
    [
        ((16384, 32768), True, torch.bfloat16, True),
        ((16384, 32768), False, torch.bfloat16, False),
        ((100, 32768), True, torch.bfloat16, False),
        ((0, 32768), True, torch.bfloat16, True),
        # F.grouped_mm itself would ask the device for the counts, and loop
        ((100, 32768), True, torch.float32, True),
        ((100, 32768), False, torch.float32, False),
    ],
)
def test_big_groups_with_known_counts_take_library_products(ends, known, dtype, loop, monkeypatch):
    """The rule reads shapes and host counts alone, so that meta tensors show it."""
    monkeypatch.setattr(LinearInputs, "device_type", property(lambda _: "cuda"))
    offsets = torch.tensor(ends, dtype=torch.int32)
    inputs = LinearInputs(
        torch.empty(ends[-1], 2048, device="meta", dtype=dtype),
        torch.empty(2, 8192, 2048, device="meta", dtype=dtype),
        None,
        offsets,
        offsets if known else None,
    )
    assert grouped.prefers_loop(inputs) is loop
