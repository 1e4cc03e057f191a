"""The sliced head loss equals the loss through full logits, value and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixture_of_mamba.ops.cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_reference,
)

RANGES = torch.tensor([[0, 7], [7, 20], [20, 21]])


def _problem(rows=13, d=5, vocabulary=21, ranges=False, ignore=False, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, d, generator=g, dtype=torch.float64)
    weight = torch.randn(vocabulary, d, generator=g, dtype=torch.float64)
    kwargs = {}
    if ranges:
        part = RANGES[torch.arange(rows) * 3 // max(rows, 1)]
        low, high = part[:, 0].contiguous(), part[:, 1].contiguous()
        share = torch.rand(rows, generator=g, dtype=torch.float64)
        targets = low + (share * (high - low)).long()
        kwargs = {"low": low, "high": high}
    else:
        targets = torch.randint(vocabulary, (rows,), generator=g)
    if ignore:
        targets[::4] = -100
    scale = torch.rand(rows, generator=g, dtype=torch.float64)
    return hidden, weight, targets, kwargs, scale


def _run(loss, hidden, weight, targets, kwargs, scale):
    hidden, weight = (x.detach().clone().requires_grad_() for x in (hidden, weight))
    losses = loss(hidden, weight, targets, **kwargs)
    (losses * scale.to(losses.dtype)).sum().backward()
    return losses.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("slice_rows", [1, 4, 13, 100, None])
def test_slices_equal_full_logits(slice_rows, ranges, ignore):
    *problem, kwargs, scale = _problem(ranges=ranges, ignore=ignore)
    expected = _run(linear_cross_entropy_reference, *problem, kwargs, scale)
    got = _run(linear_cross_entropy, *problem, {**kwargs, "slice_rows": slice_rows}, scale)
    for name, a, b in zip(("loss", "hidden", "weight"), got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_first_order_gradients_by_differences():
    hidden, weight, targets, kwargs, _ = _problem(rows=5, ranges=True)
    inputs = (hidden.requires_grad_(), weight.requires_grad_())
    torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, slice_rows=2, **kwargs), inputs
    )


def test_ignored_rows_may_have_an_empty_range():
    hidden, weight, targets, _, scale = _problem(rows=4)
    low = high = torch.full((4,), 21)
    targets = torch.full((4,), -100)
    loss, dh, dw = _run(
        linear_cross_entropy, hidden, weight, targets, {"low": low, "high": high}, scale
    )
    assert not loss.any() and not dh.any() and not dw.any()


def test_no_rows_give_no_losses_and_zero_gradients():
    hidden, weight, targets, _, scale = _problem(rows=0)
    loss, dh, dw = _run(linear_cross_entropy, hidden, weight, targets, {}, scale)
    assert loss.shape == (0,) and dh.shape == (0, 5) and not dw.any()


def test_low_precision_is_accumulated_in_float32():
    hidden, weight, targets, kwargs, scale = _problem(rows=64, ranges=True)
    hidden, weight = hidden.bfloat16(), weight.bfloat16()
    expected = _run(
        linear_cross_entropy_reference, hidden.double(), weight.double(), targets, kwargs, scale
    )
    got = _run(linear_cross_entropy, hidden, weight, targets, {**kwargs, "slice_rows": 3}, scale)
    assert got[0].dtype == torch.float32 and got[1].dtype == got[2].dtype == torch.bfloat16
    for a, b in zip(got, expected, strict=True):
        assert (a.double() - b).norm() / b.norm() < 1e-2  # bf16 keeps 8 bits of each operand


def test_autocast_casts_both_and_returns_float32_gradients():
    hidden, weight, targets, kwargs, scale = _problem(ranges=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, dh, dw = _run(
            linear_cross_entropy, hidden.float(), weight.float(), targets, kwargs, scale
        )
    assert loss.dtype == dh.dtype == dw.dtype == torch.float32
    expected = _run(linear_cross_entropy_reference, hidden, weight, targets, kwargs, scale)
    for a, b in zip((loss, dh, dw), expected, strict=True):
        assert (a.double() - b).norm() / b.norm() < 2e-2


def test_slices_multiply_only_the_words_that_they_touch(monkeypatch):
    touched = []
    matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor, "__matmul__", lambda a, b: touched.append(b.shape[1]) or matmul(a, b)
    )
    hidden, weight, targets, kwargs, _ = _problem(rows=12, ranges=True)
    linear_cross_entropy(hidden, weight, targets, slice_rows=4, **kwargs)
    assert touched == [7, 13, 1]


def test_compiles_into_one_node():
    hidden, weight, targets, kwargs, scale = _problem(ranges=True)
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        _run(compiled, hidden, weight, targets, kwargs, scale),
        _run(linear_cross_entropy, hidden, weight, targets, kwargs, scale),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_operator_contract():
    hidden, weight, targets, kwargs, _ = _problem(ranges=True)
    torch.library.opcheck(
        torch.ops.mixture_of_mamba.linear_cross_entropy.default,
        (
            *(hidden.requires_grad_(), weight.requires_grad_(), targets),
            *(kwargs["low"], kwargs["high"], -100, 4),
        ),
    )


def test_flops_are_those_of_the_head():
    hidden, weight, targets, _, scale = _problem()
    with FlopCounterMode(display=False) as counter:
        _run(linear_cross_entropy, hidden, weight, targets, {}, scale)
    assert counter.get_total_flops() == 3 * 2 * 13 * 5 * 21


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.full((13,), 21)}, r"targets\[0\] is 21, but row 0 has words 0..20"),
        ({"targets": torch.zeros(12, dtype=torch.int64)}, r"targets has shape \(12,\); \(13,\)"),
        ({"low": torch.zeros(13, dtype=torch.int64)}, "high is missing; give both ends"),
        ({"slice_rows": 0}, "slice_rows is 0; at least 1"),
        ({"weight": torch.zeros(21, 4, dtype=torch.float64)}, r"\(vocabulary, d\) are needed"),
    ],
)
def test_wrong_calls_say_what_is_needed(change, message):
    hidden, weight, targets, _, _ = _problem()
    call = {"hidden": hidden, "weight": weight, "targets": targets, **change}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**call)


def test_dtypes_must_agree():
    hidden, weight, targets, _, _ = _problem()
    with pytest.raises(TypeError, match="use one dtype"):
        linear_cross_entropy(hidden.float(), weight, targets)
    with pytest.raises(TypeError, match=r"targets is torch\.int32; int64 is needed"):
        linear_cross_entropy(hidden, weight, targets.int())


def test_shapes_alone_pass_through() -> None:
    """On the meta device, for which torch knows no autocast."""
    hidden, weight = torch.empty(5, 4, device="meta"), torch.empty(7, 4, device="meta")
    targets = torch.zeros(5, dtype=torch.int64, device="meta")
    found = linear_cross_entropy(hidden, weight, targets)
    assert found.device.type == "meta" and found.shape == (5,)
