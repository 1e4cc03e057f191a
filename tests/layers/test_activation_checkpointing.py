"""Checkpointed blocks run each scan once and everything else twice, with the same gradients."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixture_of_mamba.layers import MambaBlock, MambaConfig
from mixture_of_mamba.layers.activation_checkpointing import checkpoint_contexts
from mixture_of_mamba.ops import Routing, use_backend
from mixture_of_mamba.ops.causal_conv1d import portable
from mixture_of_mamba.ops.modality_linear import loop
from mixture_of_mamba.ops.selective_scan import chunked

COMPOSED = {"selective_scan": "torch", "causal_conv1d": "torch", "modality_linear": "loop"}


SCAN = {"selective_scan": "torch"}
CONV = {"causal_conv1d": "torch"}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each backend's forward ran."""
    counts: Counter[str] = Counter()

    def count(module: ModuleType, name: str) -> None:
        forward = module.forward

        def counted(*args: object) -> object:
            counts[name] += 1
            return forward(*args)

        monkeypatch.setattr(module, "forward", counted)

    for module, name in ((chunked, "scan"), (portable, "conv"), (loop, "projection")):
        count(module, name)
    return counts


def _gradients(block: MambaBlock, x: Tensor, routing: Routing, recompute: bool) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    with use_backend(**COMPOSED):
        if recompute:
            y = checkpoint(
                block, x, routing=routing, use_reentrant=False, context_fn=checkpoint_contexts
            )
        else:
            y = block(x, routing=routing)
        return list(torch.autograd.grad(y.square().sum(), [x, *block.parameters()]))


def test_the_scan_is_not_computed_again(calls: Counter[str]) -> None:
    block = MambaBlock(MambaConfig(d_model=16, n_modalities=2))
    routing = Routing.build(torch.randint(2, (2, 9)), 2)
    x = torch.randn(18, 16)
    expected = _gradients(block, x, routing, recompute=False)
    assert calls == {"scan": 1, "conv": 1, "projection": 4}
    calls.clear()
    found = _gradients(block, x, routing, recompute=True)
    assert calls == {"scan": 1, "conv": 2, "projection": 8}
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_backends_of_the_forward_compute_it_again(calls: Counter[str]) -> None:
    """The backward may run in another thread, or when the preference has ended."""
    block = MambaBlock(MambaConfig(d_model=16, n_modalities=2))
    routing = Routing.build(torch.randint(2, (2, 9)), 2)
    x = torch.randn(18, 16, requires_grad=True)
    with use_backend(**COMPOSED):
        y = checkpoint(
            block, x, routing=routing, use_reentrant=False, context_fn=checkpoint_contexts
        )
    torch.autograd.grad(y.sum(), x)
    assert calls == {"scan": 1, "conv": 2, "projection": 8}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("forward", "backward"), [({}, SCAN), (SCAN, {}), (CONV, SCAN), (SCAN, CONV), ({}, CONV)]
)
def test_the_preferences_of_the_backward_do_not_compute_it_again(
    forward: dict[str, str], backward: dict[str, str], autocast: bool, calls: Counter[str]
) -> None:
    """The fused block is left to the single ops under autocast, or where one is preferred."""
    block = MambaBlock(MambaConfig(d_model=16, n_modalities=2))
    routing = Routing.build(torch.randint(2, (2, 40)), 2)
    x = torch.randn(80, 16, requires_grad=True)
    wanted = [x, *block.parameters()]

    def loss(recompute: bool) -> Tensor:
        with use_backend(**forward), torch.autocast("cpu", torch.bfloat16, autocast):
            if not recompute:
                return block(x, routing=routing).float().square().sum()
            y = checkpoint(
                block, x, routing=routing, use_reentrant=False, context_fn=checkpoint_contexts
            )
            return y.float().square().sum()

    expected = torch.autograd.grad(loss(recompute=False), wanted)
    scan, conv = "selective_scan" in forward, "causal_conv1d" in forward
    assert (calls["scan"], calls["conv"]) == (scan, conv)
    calls.clear()
    recomputed = loss(recompute=True)
    with use_backend(**backward):
        found = torch.autograd.grad(recomputed, wanted)
    assert (calls["scan"], calls["conv"]) == (scan, 2 * conv)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
