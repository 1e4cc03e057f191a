"""The CPU's softmax kernel under the head loss: values, gradients, and what it must not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.ops import cross_entropy, native, use_backend
from mixture_of_mamba.ops.cross_entropy import (
    cpu,
    linear_cross_entropy,
    linear_cross_entropy_reference,
)
from mixture_of_mamba.ops.cross_entropy.inputs import HeadInputs
from mixture_of_mamba.ops.cross_entropy.slices import Product

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

OPS = torch.ops.mixture_of_mamba
#: Rows at a time: the gradient of the logits is kept, or they are computed again.
every_way = pytest.mark.parametrize("slice_rows", [None, 5], ids=["kept", "sliced"])


class Problem(NamedTuple):
    """Arguments of a call in float64, and the gradient of its losses."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    ranges: dict[str, Tensor]
    share: Tensor


def problem(
    vocabulary: int, parts: tuple[int, ...] = (), rows: int = 23, ignored: int = 4, width: int = 7
) -> Problem:
    """Random rows whose ranges are the parts between these ends, in turns, or all words."""
    g = torch.Generator().manual_seed(vocabulary + len(parts))
    ends = torch.tensor(parts or (0, vocabulary))
    part = torch.arange(rows) % (len(ends) - 1)
    low, high = ends[part], ends[part + 1]
    share = torch.rand(rows, generator=g, dtype=torch.float64)
    targets = low + (share * (high - low)).long()
    targets[high == low] = -100
    if ignored:
        targets[::ignored] = -100
    return Problem(
        torch.randn(rows, width, generator=g, dtype=torch.float64),
        torch.randn(vocabulary, width, generator=g, dtype=torch.float64),
        targets,
        {"low": low, "high": high} if parts else {},
        torch.randn(rows, generator=g, dtype=torch.float64),
    )


def run(loss: Callable[..., Tensor], p: Problem, **options: Any) -> list[Tensor]:
    """Losses, and the gradients of hidden and weight."""
    leaves = [x.detach().clone().requires_grad_() for x in (p.hidden, p.weight)]
    losses = loss(*leaves, p.targets, **p.ranges, **options)
    gradients = torch.autograd.grad(losses, leaves, p.share.to(losses.dtype))
    return [losses.detach(), *gradients]


def assert_equal_to_formula(p: Problem, slice_rows: int | None, dtype: torch.dtype) -> None:
    """Against the formula in float64 on the same, rounded numbers."""
    rounded = p._replace(hidden=p.hidden.to(dtype), weight=p.weight.to(dtype))
    wide = p._replace(hidden=rounded.hidden.double(), weight=rounded.weight.double())
    expected = run(linear_cross_entropy_reference, wide)
    found = run(linear_cross_entropy, rounded, slice_rows=slice_rows)
    assert found[0].dtype == torch.float32 and found[1].dtype == found[2].dtype == dtype
    for name, a, b in zip(("losses", "hidden", "weight"), found, expected, strict=True):
        # One rounding of the logits, one of their gradients, one of a row's factor, one at the end.
        allowed = 1e-6 if dtype == torch.float32 else 4 * 2**-8
        scale = float(b.abs().max().clamp(min=1.0))
        error = float((a.double() - b).abs().max()) / scale
        assert error < allowed, f"{name}: {error:.1e}"
        assert not (a[b == 0.0] != 0.0).any(), f"{name}: not zero where the formula is"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@every_way
@pytest.mark.parametrize(
    ("vocabulary", "parts"),
    [
        *((n, ()) for n in (1, 2, 15, 16, 17, 31, 33, 63, 65, 129, 1023, 1795)),
        (21, (0, 7, 20, 21)),  # both ends of the vocabulary, and a single word
        (40, (0, 16, 16, 32, 40)),  # a modality without words, as a continuous one
        (1795, (0, 1, 1025, 1538, 1795)),
    ],
)
def test_equals_the_formula(
    vocabulary: int, parts: tuple[int, ...], slice_rows: int | None, dtype: torch.dtype
) -> None:
    assert_equal_to_formula(problem(vocabulary, parts), slice_rows, dtype)


@every_way
def test_a_vocabulary_of_many_chunks(slice_rows: int | None) -> None:
    # Ten rows: of a single one, the product with the weights sums 70,001 terms less precisely.
    assert_equal_to_formula(problem(70_001, rows=10), slice_rows, torch.float32)


@every_way
def test_large_logits_are_stable(slice_rows: int | None) -> None:
    # The maximum and the logarithm of the sum are not added before the logit is subtracted: their
    # float32 sum would be off by 2e-3 here. Powers of two, so that the products are exact.
    p = problem(37)
    p = p._replace(hidden=(16 * p.hidden).round() * 64, weight=(4 * p.weight).round() * 4)
    p.hidden[:, 0], p.weight[:, 0] = 2.0**15, 1.0
    p = p._replace(hidden=p.hidden * torch.tensor([1.0, *[2.0**-10] * 6], dtype=torch.float64))
    found, expected = (
        run(
            linear_cross_entropy,
            p._replace(hidden=p.hidden.float(), weight=p.weight.float()),
            slice_rows=slice_rows,
        ),
        run(linear_cross_entropy_reference, p),
    )
    assert (p.hidden @ p.weight.T).min() > 3e4
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=1e-6 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_infinite_logits(dtype: torch.dtype) -> None:
    inf = torch.inf
    logits = torch.zeros(6, 19, dtype=dtype)
    logits[1, 3:] = -inf  # impossible words
    logits[2, 7] = -inf  # an impossible target
    logits[3, :] = -inf
    logits[4, 18] = inf
    logits[5, 2] = torch.nan
    targets = torch.tensor([0, 1, 7, 0, 0, 0])
    inputs = HeadInputs(
        torch.zeros(6, 1, dtype=dtype),
        torch.zeros(19, 1, dtype=dtype),
        targets,
        None,
        None,
        -100,
        6,
    )
    leaf = logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(leaf, targets, reduction="none")
    (slopes,) = torch.autograd.grad(expected.sum(), leaf)
    losses, totals = torch.empty(6), torch.empty(6)
    part = Product(slice(0, 6), slice(0, 19), logits)
    cpu.softmax(inputs, part, gradient=True, losses=losses, totals=totals)
    close = {"rtol": 1e-6, "atol": 1e-6, "equal_nan": True}
    torch.testing.assert_close(losses.double(), expected.detach(), **close)
    if dtype == torch.bfloat16:
        close |= {"rtol": 2**-8}
    torch.testing.assert_close(logits.double(), slopes, **close)
    assert totals[:3].isfinite().all() and totals[3:].isnan().all()


@every_way
def test_columns_of_wider_rows_and_transposed_weights(slice_rows: int | None) -> None:
    p = problem(37, (0, 20, 37))
    wide = torch.randn(23, 14, dtype=torch.float64)
    wide[:, ::2] = p.hidden
    strided = p._replace(
        hidden=wide[:, ::2],
        weight=p.weight.T.contiguous().T,
        targets=p.targets.repeat_interleave(2)[::2],
        ranges={k: x.repeat_interleave(3)[::3] for k, x in p.ranges.items()},
    )
    float32 = [x._replace(hidden=x.hidden.float(), weight=x.weight.float()) for x in (p, strided)]
    found = [run(linear_cross_entropy, x, slice_rows=slice_rows) for x in float32]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@every_way
@pytest.mark.parametrize("parts", [(), (0, 5, 9)])
def test_no_rows(parts: tuple[int, ...], slice_rows: int | None) -> None:
    p = problem(9, parts, rows=0)
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    losses, dhidden, dweight = run(linear_cross_entropy, p, slice_rows=slice_rows)
    assert losses.shape == (0,) and dhidden.shape == (0, 7)
    assert dweight.shape == (9, 7) and not dweight.any()


@every_way
def test_rows_without_a_target_have_no_loss_and_no_gradient(slice_rows: int | None) -> None:
    p = problem(9, ignored=1)
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    assert not any(x.any() for x in run(linear_cross_entropy, p, slice_rows=slice_rows))


@pytest.mark.parametrize("share", [1e30, torch.inf, torch.nan])
def test_factors_that_rows_cannot_carry(share: float) -> None:
    p = problem(21, (0, 7, 20, 21))
    p.share[5] = share
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    for a, b in zip(
        run(linear_cross_entropy, p), run(linear_cross_entropy_reference, p), strict=True
    ):
        assert torch.equal(a.isfinite(), b.isfinite())
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


def called(p: Problem, **options: Any) -> set[str]:
    """Names of the head's operators that a call and its backward run."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: set[str] = set()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
            if "linear_cross_entropy" in str(function):
                self.found.add(str(function).split(".")[1])
            return function(*args, **(kwargs or {}))

    with Names() as names:
        run(linear_cross_entropy, p, **options)
    return names.found


def test_only_what_fits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    sliced = {"linear_cross_entropy", "linear_cross_entropy_backward"}
    kept = {f"kept_{name}" for name in sliced}
    p = problem(9)
    assert called(p) == sliced  # float64
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    assert called(p) == called(p, slice_rows=23) == kept
    assert called(p, slice_rows=22) == sliced
    monkeypatch.setattr(cross_entropy, "_KEPT", 23 * 9 - 1)
    assert called(p) == sliced
    monkeypatch.setattr(native, "why_not", lambda: "no compiler")
    assert called(p, slice_rows=23) == sliced


def test_one_tensor_of_logits_is_all_that_is_kept() -> None:
    p = problem(64, rows=33)
    p = p._replace(hidden=p.hidden.bfloat16().requires_grad_(), weight=p.weight.bfloat16())
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (saved.append(x), x)[1], lambda x: x):
        linear_cross_entropy(p.hidden, p.weight, p.targets)
    sizes = sorted(x.numel() * x.element_size() for x in saved)
    assert sizes == sorted([33 * 64 * 2, 33 * 7 * 2, 64 * 7 * 2, 33 * 8])


def test_without_the_kernel_the_formula_in_slices_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = problem(37, (0, 20, 37))
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    with_kernel = run(linear_cross_entropy, p, slice_rows=5)
    monkeypatch.setattr(native, "why_not", lambda: "no compiler")
    for a, b in zip(run(linear_cross_entropy, p, slice_rows=5), with_kernel, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "GRAIN", 1)
    inputs = HeadInputs(
        torch.zeros(53, 1), torch.zeros(211, 1), torch.arange(53), None, None, -100, 53
    )
    logits, before, results = torch.randn(53, 211), torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        place, losses = logits.clone(), torch.empty(53)
        part = Product(slice(0, 53), slice(0, 211), place)
        cpu.softmax(inputs, part, gradient=True, losses=losses)
        results.append((place, losses))
    torch.set_num_threads(before)
    assert all(
        torch.equal(a, b) for other in results for a, b in zip(other, results[0], strict=True)
    )


@every_way
def test_targets_outside_their_range_are_refused(slice_rows: int | None) -> None:
    hidden, weight = torch.randn(3, 2, requires_grad=True), torch.randn(9, 2)
    low, high = torch.tensor([0, 4, 4]), torch.tensor([4, 9, 9])
    call = {"low": low, "high": high, "slice_rows": slice_rows}
    for wrong in (3, -1, 9):
        targets = torch.tensor([0, wrong, -100])
        with pytest.raises(
            ValueError, match=rf"targets\[1\] is {wrong}, but row 1 has words 4\.\.8"
        ):
            linear_cross_entropy(hidden, weight, targets, **call)
    with pytest.raises(ValueError, match=r"low and high must lie in 0\.\.9"):
        linear_cross_entropy(hidden, weight, low, **{**call, "high": high + 1})


def test_the_kernel_itself_reads_nothing_outside() -> None:
    for targets, low, high in (((9,), None, None), ((2,), (3,), (9,)), ((4,), (0,), (10,))):
        vectors = [None if x is None else torch.tensor(x) for x in (targets, low, high)]
        inputs = HeadInputs(torch.zeros(1, 1), torch.zeros(9, 1), *vectors, -100, 1)  # type: ignore[arg-type]
        part = Product(slice(0, 1), slice(0, 9), torch.zeros(1, 9))
        with pytest.raises(ValueError, match="have changed since the forward"):
            cpu.softmax(inputs, part, losses=torch.empty(1))
    inputs = HeadInputs(
        torch.zeros(1, 1), torch.zeros(9, 1), torch.zeros(1).long(), *[None] * 2, -100, 1
    )
    part = Product(slice(0, 1), slice(0, 9), torch.zeros(1, 9))
    with pytest.raises(ValueError, match="losses is"):
        cpu.softmax(inputs, part, losses=torch.empty(2))
    with pytest.raises(ValueError, match="logits is"):
        cpu.softmax(inputs, part._replace(logits=torch.zeros(1, 18)[:, ::2]))


def test_operator_contract() -> None:
    p = problem(21, (0, 7, 20, 21))
    torch.library.opcheck(
        OPS.kept_linear_cross_entropy.default,
        (
            *(p.hidden.float().requires_grad_(), p.weight.float().requires_grad_(), p.targets),
            *(p.ranges["low"], p.ranges["high"], -100, 100),
        ),
    )


def test_compiles_into_one_node() -> None:
    p = problem(21, (0, 7, 20, 21))
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    torch._dynamo.reset()
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for a, b in zip(run(compiled, p), run(linear_cross_entropy, p), strict=True):
        torch.testing.assert_close(a, b)


@every_way
def test_flops_are_those_of_the_head(slice_rows: int | None) -> None:
    p = problem(21)
    p = p._replace(hidden=p.hidden.float(), weight=p.weight.float())
    with FlopCounterMode(display=False) as counter:
        run(linear_cross_entropy, p, slice_rows=slice_rows)
    assert counter.get_total_flops() == 3 * 2 * 23 * 7 * 21


@pytest.mark.parametrize("share", [1.0, torch.inf])
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_costs_no_product(frozen: int, share: float) -> None:
    p = problem(21)
    leaves = [p.hidden.float().requires_grad_(), p.weight.float().requires_grad_()]
    whole = torch.autograd.grad(linear_cross_entropy(*leaves, p.targets).sum() * share, leaves)
    leaves[frozen].requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        (linear_cross_entropy(*leaves, p.targets).sum() * share).backward()
    assert leaves[frozen].grad is None
    torch.testing.assert_close(leaves[1 - frozen].grad, whole[1 - frozen], equal_nan=True)
    assert counter.get_total_flops() == 2 * 2 * 23 * 7 * 21


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_takes_it_for_few_logits_too(
    autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modalities = [Modality("text", "discrete", 7), Modality("image", "discrete", 5)]
    model = MultimodalModel(ModelConfig(d_model=4, n_layers=1, d_state=2, modalities=modalities))
    batch = Batch(tokens=torch.arange(5)[None], modality_ids=torch.tensor([[0, 0, 1, 1, 0]]))

    def gradients() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(batch).loss
        return [loss.detach(), *torch.autograd.grad(loss, model.parameters())]

    counted = []
    monkeypatch.setattr(
        cpu, "softmax", lambda *a, f=cpu.softmax, **k: counted.append(1) or f(*a, **k)
    )
    found = gradients()
    assert counted == [1]
    with use_backend(modality_linear="reference"):  # second derivatives need every formula
        expected = gradients()
    assert counted == [1]
    tolerance = 4 * 2**-8 if autocast else 1e-5
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))
