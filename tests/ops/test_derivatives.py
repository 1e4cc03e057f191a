"""Forward mode, batched gradients, torch.func and second derivatives: right, or refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from mixture_of_mamba import (
    Batch,
    MambaBlock,
    MambaConfig,
    Modality,
    ModelConfig,
    MultimodalModel,
    use_backend,
)
from mixture_of_mamba.layers.fused import block_weights
from mixture_of_mamba.ops import (
    Routing,
    causal_conv1d,
    modality_linear,
    native,
    selective_scan,
)
from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy
from mixture_of_mamba.ops.decode_step import DecodeStep
from mixture_of_mamba.ops.dispatch import BackendError

FORMULAS = dict.fromkeys(("selective_scan", "causal_conv1d", "modality_linear"), "reference")
B, T, D, N = 2, 5, 3, 2
IDS = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 0, 1, 0]])
ROUTING = Routing.build(IDS, 2, torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]))


class Case(NamedTuple):
    """A function of tensors, and their shapes."""

    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Any:
    bias = delta[:2]
    return selective_scan(
        *(u, delta, -A.exp(), B, C, A[:, 0]),
        z=C[:, :1] * u,
        delta_bias=bias,
        delta_softplus=True,
        state=state,
        routing=ROUTING,
    )


def conv(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Any:
    return causal_conv1d(x, weight, bias, state=state, routing=ROUTING)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
    return (modality_linear(x, weight, bias, routing=ROUTING),)


def cross_entropy(hidden: Tensor, weight: Tensor) -> Any:
    targets = torch.arange(B * T) % 7
    low = torch.where(targets < 4, 0, 4)
    losses = linear_cross_entropy(hidden, weight, targets, low=low, high=low + 3 + (low == 0))
    return (losses, linear_cross_entropy(hidden, weight, targets))


BLOCK = MambaBlock(MambaConfig(d_model=D, n_modalities=2, d_state=N, d_conv=3, dt_rank=2))
NAMES = [name for name, _ in BLOCK.named_parameters()]


def block(x: Tensor, *parameters: Tensor) -> Any:
    named = dict(zip(NAMES, parameters, strict=True))
    y, state = torch.func.functional_call(
        BLOCK, named, (x,), {"routing": ROUTING, "return_state": True}
    )
    return (y, *state)


R = B * T
CASES = {
    "scan": Case(scan, ((R, D), (R, D), (D, N), (R, N), (R, N), (B, D, N))),
    "conv": Case(conv, ((R, D), (D, 3), (D,), (B, 2, D))),
    "linear": Case(linear, ((R, D), (2, 4, D), (2, 4))),
    "cross entropy": Case(cross_entropy, ((R, D), (7, D))),
    "block": Case(block, ((R, D), *(tuple(p.shape) for p in BLOCK.parameters()))),
}
every_case = pytest.mark.parametrize("name", CASES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def problem(name: str, dtype: torch.dtype = torch.float64) -> tuple[Callable[..., Any], Any]:
    call, shapes = CASES[name]
    return call, tuple(0.5 * torch.randn(shape, dtype=dtype) for shape in shapes)


def numerical(call: Callable[..., Any], x: Any, v: Any, eps: float = 1e-6) -> list[Tensor]:
    """Directional derivative by central differences, in float64."""
    x, v = ([t.double() for t in ts] for ts in (x, v))
    plus, minus = (call(*(a + s * eps * b for a, b in zip(x, v, strict=True))) for s in (1.0, -1.0))
    return [(a - b) / (2 * eps) for a, b in zip(plus, minus, strict=True)]


def assert_near(found: Any, wanted: Any) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=5e-6, rtol=5e-5)


@every_dtype
@every_case
def test_forward_mode(name: str, dtype: torch.dtype) -> None:
    call, x = problem(name, dtype)
    v = tuple(torch.randn_like(t) for t in x)
    wanted = numerical(call, x, v)
    assert max(float(w.abs().max()) for w in wanted) > 0.1
    assert_near(torch.func.jvp(call, x, v)[1], wanted)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, b) for a, b in zip(x, v, strict=True)]
        assert_near([forward_ad.unpack_dual(y).tangent for y in call(*duals)], wanted)


@every_case
def test_a_tangent_of_any_one_input_counts(name: str) -> None:
    call, x = problem(name)
    for i, t in enumerate(x):
        v = [torch.zeros_like(o) for o in x]
        v[i] = torch.randn_like(t)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(o, v[i]) if j == i else o for j, o in enumerate(x)]
            found = [forward_ad.unpack_dual(y).tangent for y in call(*duals)]
        wanted = numerical(call, x, v)
        for a, b in zip(found, wanted, strict=True):
            assert_near([torch.zeros_like(b) if a is None else a], [b])


@every_case
def test_forward_mode_under_compile(name: str) -> None:
    call, x = problem(name)
    v = tuple(torch.randn_like(t) for t in x)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, v: torch.func.jvp(call, x, v)[1], fullgraph=True, backend="aot_eager"
    )
    assert_near(compiled(x, v), numerical(call, x, v))


@every_dtype
@every_case
def test_transforms_of_torch_func(name: str, dtype: torch.dtype) -> None:
    call, x = problem(name, dtype)
    leaves = [t.clone().requires_grad_() for t in x]
    wanted = torch.autograd.grad(sum(y.sum() for y in call(*leaves)), leaves)
    every = tuple(range(len(x)))
    found = torch.func.grad(lambda *x: sum(y.sum() for y in call(*x)), argnums=every)(*x)
    assert_near(found, [w.double() for w in wanted])
    several = tuple(torch.stack([t, 0.5 * t, -t]) for t in x)
    alone = [call(*(t[i] for t in several)) for i in range(3)]
    assert_near(
        torch.vmap(call)(*several), [torch.stack(y).double() for y in zip(*alone, strict=True)]
    )


@every_dtype
@every_case
def test_batched_gradients(name: str, dtype: torch.dtype) -> None:
    call, x = problem(name, dtype)
    leaves = [t.clone().requires_grad_() for t in x]
    y = call(*leaves)
    cotangents = [torch.randn(3, *o.shape, dtype=o.dtype) for o in y]
    grad = partial(torch.autograd.grad, y, leaves, retain_graph=True)
    alone = [grad([c[i] for c in cotangents]) for i in range(3)]
    wanted = [torch.stack(g).double() for g in zip(*alone, strict=True)]
    assert_near(grad(cotangents, is_grads_batched=True), wanted)
    assert_near(torch.vmap(lambda *c: grad(c))(*cotangents), wanted)


@every_case
def test_second_derivatives_are_refused(name: str) -> None:
    call, x = problem(name)
    leaves = [t.clone().requires_grad_() for t in x]
    loss = sum(y.square().sum() for y in call(*leaves))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    remedy = "use linear_cross_entropy_reference" if name == "cross entropy" else "use_backend"
    with pytest.raises(RuntimeError, match=rf"has no second derivative: .*{remedy}"):
        sum(g.sum() for g in first).backward()


@pytest.mark.parametrize("name", ["scan", "conv", "linear", "block"])
def test_the_formulas_have_second_derivatives(name: str) -> None:
    call, x = problem(name)
    with use_backend(**FORMULAS):
        leaves = tuple(t.requires_grad_() for t in x)
        assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


def test_a_backend_by_name_is_refused() -> None:
    call, x = problem("conv")
    with (
        use_backend(causal_conv1d="torch"),
        pytest.raises(BackendError, match="'torch' has neither forward-mode derivatives nor"),
    ):
        torch.func.jvp(call, x, x)


def test_a_whole_model_has_forward_derivatives() -> None:
    modalities = [Modality("text", "discrete", 7), Modality("image", "continuous", 3)]
    config = ModelConfig(d_model=4, n_layers=2, d_state=2, modalities=modalities)
    model = MultimodalModel(config).double()
    given = Batch(
        tokens=IDS * 0 + 2,
        modality_ids=IDS,
        values={"image": torch.randn(int(IDS.sum()), 3, dtype=torch.float64)},
        seed=3,
    )
    names, parameters = zip(*model.named_parameters(), strict=True)

    def loss(*values: Tensor) -> tuple[Tensor]:
        named = dict(zip(names, values, strict=True))
        return (torch.func.functional_call(model, named, (given,)).loss,)

    v = tuple(torch.randn_like(p) for p in parameters)
    x = tuple(p.detach() for p in parameters)
    assert_near(torch.func.jvp(loss, x, v)[1], numerical(loss, x, v))


@pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))
def test_the_native_decode_step_refuses_derivatives() -> None:
    step = DecodeStep([block_weights(BLOCK)], eps=1e-5)
    x, ids = torch.randn(2, D), torch.zeros(2, dtype=torch.int64)
    states = step.new_states(2)
    step(x, ids, states)
    with pytest.raises(ValueError, match="the decode step has no derivatives"):
        step(x.clone().requires_grad_(), ids, states)
    with pytest.raises(ValueError, match="the decode step has no derivatives"):
        torch.func.jvp(lambda x: step(x, ids, states), (x,), (x,))
