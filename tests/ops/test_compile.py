"""The public functions under torch.compile: one graph, the same values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.ops import (
    Routing,
    causal_conv1d,
    modality_linear,
    selective_scan,
    use_backend,
)

B, T, D, N = 2, 11, 6, 3


def _routing() -> Routing:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, (B, T), generator=g)
    return Routing.build(ids, 2, (torch.rand(B, T, generator=g) < 0.2).cumsum(1))


def _scan(routing: Routing, x: Tensor, A: Tensor, maps: Tensor, bias: Tensor) -> Tensor:
    y, state = selective_scan(
        x, x, -A.exp(), maps, maps, z=x, delta_bias=bias, delta_softplus=True, routing=routing
    )
    return y.square().sum() + state.sum()


def _conv(routing: Routing, x: Tensor, weight: Tensor) -> Tensor:
    y, state = causal_conv1d(x, weight, routing=routing)
    return y.square().sum() + state.sum()


def _linear(routing: Routing, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return modality_linear(x, weight, bias, routing=routing).square().sum()


CALLS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...], dict[str, str]]] = {
    "scan": (_scan, ((B * T, D), (D, N), (B * T, N), (2, D)), {"selective_scan": "torch"}),
    "conv": (_conv, ((B * T, D), (D, 4)), {"causal_conv1d": "torch"}),
    "linear": (_linear, ((B * T, D), (2, 5, D), (2, 5)), {"modality_linear": "loop"}),
    "grouped": (_linear, ((B * T, D), (2, 5, D), (2, 5)), {"modality_linear": "grouped"}),
}


def _gradients(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    value = call(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("name", CALLS)
def test_one_graph_with_the_same_gradients(name: str) -> None:
    function, shapes, backends = CALLS[name]
    routing = _routing()
    g = torch.Generator().manual_seed(1)
    leaves = [torch.randn(shape, generator=g) for shape in shapes]

    def call(*x: Tensor) -> Tensor:
        return function(routing, *x)

    torch._dynamo.reset()
    with use_backend(**backends):
        expected = _gradients(call, leaves)
        found = _gradients(torch.compile(call, fullgraph=True, backend="aot_eager"), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_routing_is_part_of_the_graph() -> None:
    weight = torch.randn(2, 5, D)

    def call(x: Tensor, ids: Tensor) -> Tensor:
        routing = Routing.build(ids, 2, check=False)
        return routing.to_time(modality_linear(routing.to_rows(x), weight, routing=routing))

    x, ids = torch.randn(B, T, D), torch.randint(2, (B, T))
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, ids), call(x, ids))
    torch.testing.assert_close(compiled(x, 1 - ids), call(x, 1 - ids))


@pytest.mark.parametrize("tests", ["test_schema", "test_autograd_registration", "test_faketensor"])
def test_the_operators_keep_their_contract(tests: str) -> None:
    x, A = torch.randn(B * T, D, requires_grad=True), -torch.rand(D, N)
    maps = torch.randn(B * T, N)
    index = (None, None, None, B, T)
    scan = (x, x.abs(), A, maps, maps, *[None] * 4, *index, False, "torch", True)
    torch.library.opcheck(torch.ops.mixture_of_mamba.selective_scan, scan, test_utils=tests)
    conv = (x, torch.randn(D, 4), None, None, *index, True, "torch")
    torch.library.opcheck(torch.ops.mixture_of_mamba.causal_conv1d, conv, test_utils=tests)
    routing = _routing()
    linear = (x, torch.randn(2, 5, D), None, routing.offsets, routing.host_offsets, "loop")
    torch.library.opcheck(torch.ops.mixture_of_mamba.modality_linear, linear, test_utils=tests)


def test_the_backward_takes_the_backend_of_the_forward() -> None:
    """Also where the preference for it has ended by then: saved states are a backend's own."""
    function, shapes, _ = CALLS["scan"]
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    routing = _routing()
    with use_backend(selective_scan="torch"):
        inside = torch.autograd.grad(function(routing, *leaves), leaves)
        value = function(routing, *leaves)
    for a, b in zip(torch.autograd.grad(value, leaves), inside, strict=True):
        torch.testing.assert_close(a, b)
