"""Numbers at the ends of the format, and beyond: every backend gives what the formula gives, and
what is wrong in one document, sequence or vocabulary stays there."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixture_of_mamba import MambaBlock, MambaConfig
from mixture_of_mamba.layers.fused import block_weights
from mixture_of_mamba.ops import Routing, causal_conv1d, native, selective_scan, use_backend
from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference
from mixture_of_mamba.ops.decode_step import FORMATS, DecodeStep
from mixture_of_mamba.ops.mamba_block.norm import norm_backward, norm_forward
from mixture_of_mamba.ops.selective_scan import triton as triton_scan

from .triton_device import DEVICE, to_device

NAN, INF = math.nan, math.inf
TIME, DOCUMENT = 21, 7  # three documents of seven tokens
VALUES = (NAN, INF, -INF, 3e15, -3e15, 1e20, -1e20, 88.0, -88.0, -120.0, 1e-40)
needs_kernels = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))


@pytest.fixture(params=["torch", pytest.param("cpu", marks=needs_kernels), "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        pytest.importorskip("triton")
        if DEVICE == "cpu":
            monkeypatch.setenv("TRITON_INTERPRET", "1")
        monkeypatch.setattr(triton_scan, "EVERY", 8)
    name: str = request.param
    return name


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 7 * len(shape)))


def routing(batch: int = 1) -> Routing:
    ids = torch.randint(2, (batch, TIME), generator=torch.Generator().manual_seed(3))
    return Routing.build(ids, 2, (torch.arange(TIME) // DOCUMENT).expand(batch, TIME))


def scan_problem(d: int, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and cotangents of one packed sequence."""
    shapes = {"u": (TIME, d), "delta": (TIME, d), "B": (TIME, n), "C": (TIME, n), "z": (TIME, d)}
    shapes |= {"D": (d,), "delta_bias": (2, d), "state": (1, d, n)}
    inputs = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    inputs["A"] = -torch.exp(0.5 * normal(d, n, seed=20))
    return inputs, {"dy": normal(TIME, d, seed=21), "dfinal": normal(1, d, n, seed=22)}


def conv_problem(d: int, k: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    shapes = {"x": (TIME, d), "weight": (d, k), "bias": (d,), "state": (1, k - 1, d)}
    inputs = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return inputs, {"dy": normal(TIME, d, seed=21), "dfinal": normal(1, k - 1, d, seed=22)}


def run(op, inputs, cotangents, backend, **options) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    device = DEVICE if backend == "triton" else "cpu"
    leaves = {k: x.to(device, copy=True).requires_grad_() for k, x in inputs.items()}
    where = routing() if device == "cpu" else to_device(routing())  # type: ignore[arg-type]
    outputs = op(**leaves, routing=where, backend=backend, **options)
    grads = torch.autograd.grad(
        outputs, list(leaves.values()), [x.to(device) for x in cotangents.values()]
    )
    named = {"y": outputs[0].detach(), "final": outputs[1].detach()}
    return {
        k: x.cpu()
        for k, x in (named | {f"d{k}": g for k, g in zip(leaves, grads, strict=True)}).items()
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], what: str) -> None:
    """NaN and infinities in the same places (in sums over all tokens: whatever is not finite), and
    finite values equal beside the largest one of their own document."""
    order = routing().rows[0].long()  # type: ignore[index]
    for name, value in expected.items():
        got = found[name]
        if value.shape[0] == TIME:
            parts = list(zip(got[order].split(DOCUMENT), value[order].split(DOCUMENT), strict=True))
            assert torch.equal(got.isnan(), value.isnan()), f"{what}: NaN of {name}"
            assert torch.equal(got.isinf(), value.isinf()), f"{what}: infinities of {name}"
        else:
            parts = [(got, value)]
            assert torch.equal(got.isfinite(), value.isfinite()), f"{what}: finite {name}"
        for a, b in parts:
            finite = b.isfinite()
            if finite.any():
                scale = max(1.0, float(b[finite].abs().max()))
                error = float((a - b)[finite].abs().max()) / scale
                assert error < 2e-5, f"{what}: {name} is {error:.0e} off"


def put(inputs: dict[str, Tensor], cotangents: dict[str, Tensor], name: str, at: int, value: float):  # type: ignore[no-untyped-def]
    """The problem with one number replaced: of a token's row, or the first of a state."""
    inputs, cotangents = (
        {k: x.clone() for k, x in group.items()} for group in (inputs, cotangents)
    )
    x = inputs[name] if name in inputs else cotangents[name]
    row = int(routing().rows[0, at]) if x.shape[0] == TIME else 0  # type: ignore[index]
    x[row].view(-1)[0] = value
    return inputs, cotangents


@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z", "state", "dy", "dfinal"])
def test_scan_equals_the_formula(name: str, backend: str) -> None:
    shapes = [(16, 16), (17, 5)]
    places = [7, 10, 13]  # the middle document's first, middle and last token
    values: tuple[float, ...] = VALUES
    if name in ("state", "dfinal"):
        places = [0]
    if backend == "triton":  # its interpreter is slow
        shapes, places = [(3, 3)], places[:1]
        values = (NAN, INF) if name in ("u", "delta", "B") else (NAN,)
    for (d, n), at, value in itertools.product(shapes, places, values):
        problem = put(*scan_problem(d, n), name, at, value)
        expected = run(selective_scan, *problem, "reference", delta_softplus=True)
        found = run(selective_scan, *problem, backend, delta_softplus=True)
        assert_equal(found, expected, f"{name} {value} at {at}")


@pytest.mark.parametrize("name", ["u", "delta", "dy"])
def test_segments_of_the_triton_scan_keep_documents_apart(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(triton_scan, "EVERY", 8)
    monkeypatch.setattr(triton_scan, "segment_length", lambda inputs, tiles: 8)
    problem = put(*scan_problem(5, 3), name, 10, NAN)
    expected = run(selective_scan, *problem, "reference", delta_softplus=True)
    found = run(selective_scan, *problem, "triton", delta_softplus=True)
    assert_equal(found, expected, name)


def test_scan_without_skip_has_none_of_an_infinite_input(backend: str) -> None:
    inputs, cotangents = put(*scan_problem(17, 5), "u", 10, INF)
    del inputs["D"]
    expected = run(selective_scan, inputs, cotangents, "reference", delta_softplus=True)
    found = run(selective_scan, inputs, cotangents, backend, delta_softplus=True)
    assert_equal(found, expected, "u")


@pytest.mark.parametrize(
    ("name", "d", "k"),
    [
        *itertools.product(["x", "dy", "state", "dfinal"], [16], [4]),
        *itertools.product(["x", "dy", "state", "dfinal"], [5], [2]),
        *itertools.product(["x", "dy"], [3], [1]),
    ],
)
def test_convolution_equals_the_formula(name: str, d: int, k: int, backend: str) -> None:
    values = (NAN,) if backend == "triton" else VALUES
    places = (7, 10, 13) if name in ("x", "dy") and backend != "triton" else (13,)
    for at, value in itertools.product(places, values):
        problem = put(*conv_problem(d, k), name, at, value)
        expected = run(causal_conv1d, *problem, "reference")
        assert_equal(run(causal_conv1d, *problem, backend), expected, f"{name} {value} at {at}")


@pytest.mark.parametrize("length", [1, 17])
def test_silu_and_softplus_over_the_whole_range(length: int, backend: str) -> None:
    """One tap of weight one is SiLU, one state that is read at once is softplus."""
    size = torch.logspace(-38, 38.5, 154, dtype=torch.float64)
    x = torch.cat([size, -size, torch.tensor([0.0, INF, 87.0, 88.5, -87.0, -103.0])]).float()
    device = DEVICE if backend == "triton" else "cpu"
    rows = x.to(device).expand(1, length, -1)
    y, _ = causal_conv1d(rows, torch.ones(len(x), 1, device=device), backend=backend)
    assert_ends(y[0, -1].cpu(), x.double() / (1 + torch.exp(-x.double())))
    one = torch.ones(1, length, len(x), device=device)
    slow = torch.full((len(x), 1), -1e30, device=device)  # the state before is forgotten
    delta = rows.clone()
    delta[:, :-1] = 1.0
    y, _ = selective_scan(
        one, delta, slow, one[..., :1], one[..., :1], delta_softplus=True, backend=backend
    )
    wanted = x.double().exp().log1p()
    wanted = torch.where(x > 50, x.double(), wanted)
    kept = wanted > 1e-28 if length > 1 else wanted >= 0
    assert_ends(y[0, -1].cpu()[kept], wanted[kept])


def assert_ends(found: Tensor, wanted: Tensor) -> None:
    finite = wanted.abs() < torch.finfo(torch.float32).max
    assert torch.equal(found[~finite].double(), wanted.float()[~finite].double())
    # e^89 is infinite and what is below 1.2e-38 is flushed, so SiLU may end at -4e-37
    limit = 1e-5 * wanted[finite].abs() + 4e-37
    assert ((found.double() - wanted)[finite].abs() <= limit).all()


@needs_kernels
@pytest.mark.parametrize("value", [*VALUES, 1e-30])
@pytest.mark.parametrize("d", [16, 33])
def test_norm_equals_the_formula(d: int, value: float) -> None:
    x, dy, weight = normal(4, d), normal(4, d, seed=1), normal(d)
    x[1, 0] = value
    leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = F.rms_norm(leaves[0], (d,), leaves[1], 1e-5)
    gradients = torch.autograd.grad(expected, leaves, dy)
    y, scale = norm_forward(x, weight, 1e-5)
    found = norm_backward(dy, x, weight, scale, torch.zeros_like(x))
    for a, b in zip((y, *found), (expected.detach(), *gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("value", [NAN, INF, 1e20])
def test_a_block_keeps_documents_apart_to_the_bit(value: float) -> None:
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=20, n_modalities=2, d_state=5))
    x, dy = normal(2, TIME, 20), normal(2, TIME, 20, seed=1)
    ids = torch.randint(2, (2, TIME), generator=torch.Generator().manual_seed(3))
    documents = (torch.arange(TIME) // DOCUMENT).expand(2, TIME)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y = block(x, ids, document_ids=documents)
        return y.detach(), torch.autograd.grad(y, x, dy)[0]

    wrong = x.clone()
    wrong[0, 10, 3] = value
    for found, expected in zip(both(wrong), both(x), strict=True):
        others = torch.ones(2, TIME, dtype=torch.bool)
        others[0, 7:14] = False
        assert torch.equal(found[others], expected[others])
    with use_backend(selective_scan="reference", causal_conv1d="reference"):
        formula = both(wrong)
    for found, expected in zip(both(wrong), formula, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 6, 19])
@pytest.mark.parametrize("form", FORMATS)
def test_a_decode_step_keeps_sequences_apart_and_takes_infinite_biases(
    form: str, batch: int
) -> None:
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=32, n_modalities=2, d_state=5, bias=True))
    with torch.no_grad():
        block.mixer.dt_proj.bias[:, 0] = INF  # steps
        block.mixer.in_proj.bias[:, 1] = 3e17  # an input of the convolution
        block.mixer.in_proj.bias[:, 64 + 2] = -3e17  # and a gate
    step = DecodeStep([block_weights(block)], eps=1e-5, weights=form)
    x, ids = normal(batch, 32), torch.arange(batch) % 2
    before = step.new_states(batch)
    expected = step(x, ids, before)
    if form == "float32":
        torch.testing.assert_close(
            expected, block(x[:, None], ids[:, None])[:, 0], rtol=2e-5, atol=1e-5, equal_nan=True
        )
    x[0, 3] = NAN
    after = step.new_states(batch)
    found = step(x, ids, after)
    assert found[0].isnan().all()
    for a, b in ((found, expected), *zip(after[0], before[0], strict=True)):
        torch.testing.assert_close(a[1:], b[1:], rtol=0, atol=0, equal_nan=True)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 6, 19])
@pytest.mark.parametrize("form", FORMATS)
def test_an_infinite_activation_of_a_decode_step_is_not_nan(form: str, batch: int) -> None:
    """x_proj and out_proj read the convolution's and the scan's output as it is."""
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=32, d_state=16, bias=True))
    with torch.no_grad():
        block.mixer.in_proj.bias[:, 3] = INF
        block.mixer.conv1d.weight[3] = 1.0
        block.mixer.x_proj.weight[:] = 1.0
        block.mixer.out_proj.weight[:] = 1.0
    step = DecodeStep([block_weights(block)], eps=1e-5, weights=form)
    x = normal(batch, 32)
    found = step(x, torch.zeros(batch, dtype=torch.int64), step.new_states(batch))
    expected = block(x[:, None])[:, 0]
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.isinf(), expected.isinf())


@pytest.mark.parametrize("slice_rows", [2, 100])
@pytest.mark.parametrize("where", ["hidden", "weight", "target", "dloss"])
@pytest.mark.parametrize("ranges", [False, True])
def test_cross_entropy_equals_the_formula(ranges: bool, where: str, slice_rows: int) -> None:
    part = torch.tensor([[0, 7], [7, 20], [20, 21]])[torch.arange(9) // 3]
    targets = part[:, 0].clone()
    bounds = {"low": part[:, 0].contiguous(), "high": part[:, 1].contiguous()} if ranges else {}
    for value in (*VALUES, 3e38):
        hidden, weight, dloss = normal(9, 4), normal(21, 4), normal(9)
        place = {"hidden": hidden[4], "weight": weight[9], "target": weight[7], "dloss": dloss[4:5]}
        place[where][0] = value
        results = []
        for loss, options in (
            (linear_cross_entropy_reference, {}),
            (linear_cross_entropy, {"slice_rows": slice_rows}),
        ):
            leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
            losses = loss(*leaves, targets, **bounds, **options)  # type: ignore[operator]
            results.append([losses.detach(), *torch.autograd.grad(losses, leaves, dloss)])
        for name, b, a in zip(("loss", "dhidden", "dweight"), *results, strict=True):
            # Products over a part of the vocabulary never meet the zeros times NaN of the others.
            finite = b.isfinite()
            if not (ranges and slice_rows == 2):
                torch.testing.assert_close(a[~finite], b[~finite], rtol=0, atol=0, equal_nan=True)
            scale = float(b[finite].abs().max().clamp(min=1.0)) if finite.any() else 1.0
            assert ((a - b)[finite].abs() < 1e-5 * scale).all(), f"{name} {value}"


def test_nan_of_one_vocabulary_leaves_the_weights_of_the_others_alone() -> None:
    hidden, weight = normal(6, 4), normal(20, 4)
    weight[3, 0] = NAN
    weight.requires_grad_()
    low = torch.tensor([0, 0, 0, 12, 12, 12])
    high = torch.tensor([12, 12, 12, 20, 20, 20])
    linear_cross_entropy(hidden, weight, low + 1, low=low, high=high).sum().backward()
    assert weight.grad is not None
    assert weight.grad[:12].isnan().all()
    assert weight.grad[12:].isfinite().all()
