"""Whatever hangs on a part of a block takes part: the short way is taken past plain parts only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from mixture_of_mamba import MambaBlock, MambaConfig, use_backend
from mixture_of_mamba.layers import ModalityLinear
from mixture_of_mamba.layers.fused import fused_weights
from mixture_of_mamba.layers.mixer import DepthwiseConv
from mixture_of_mamba.ops import Routing, native

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

PARTS = (
    *("norm", "mixer", "mixer.conv1d"),
    *("mixer.in_proj", "mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"),
)


def times(factor: float, out: Any) -> Any:
    """The first tensor that a part gives, made larger."""
    return (factor * out[0], *out[1:]) if isinstance(out, tuple) else factor * out


def forward_hook(block: MambaBlock, part: nn.Module, name: str) -> None:
    part.register_forward_hook(lambda module, args, out: times(1.5, out))


def pre_hook(block: MambaBlock, part: nn.Module, name: str) -> None:
    part.register_forward_pre_hook(lambda module, args: (args[0].roll(1, -1), *args[1:]))


def own_forward(block: MambaBlock, part: nn.Module, name: str) -> None:
    old = part.forward
    part.forward = lambda *args, **kwargs: times(1.5, old(*args, **kwargs))


def subclass(block: MambaBlock, part: nn.Module, name: str) -> None:
    kind = type(part)

    class Larger(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return times(1.5, super().forward(*args, **kwargs))

    part.__class__ = Larger


def parametrization(block: MambaBlock, part: nn.Module, name: str) -> None:
    class Larger(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1.5 * x

    parametrize.register_parametrization(part, "A_log" if name == "mixer" else "weight", Larger())


def compiled_call(block: MambaBlock, part: nn.Module, name: str) -> None:
    plain = part._call_impl
    part._compiled_call_impl = lambda *args, **kwargs: times(1.5, plain(*args, **kwargs))


WAYS = [forward_hook, pre_hook, own_forward, subclass, parametrization, compiled_call]


def problem() -> tuple[MambaBlock, Routing, Tensor]:
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=12, n_modalities=2, d_state=4, dt_rank=3))
    with torch.no_grad():  # every part away from its small initial value
        for p in block.parameters():
            p.add_(0.3 * torch.randn_like(p))
    routing = Routing.build(torch.randint(2, (2, 7)), 2)
    return block, routing, torch.randn(14, 12)


def one_by_one(block: MambaBlock, routing: Routing, x: Tensor) -> Tensor:
    """With a backend by name there is no short way."""
    with use_backend(selective_scan="torch"):
        return block(x, routing=routing)


def test_a_plain_block_is_one_op() -> None:
    block, routing, x = problem()
    assert fused_weights(block, x, routing, None) is not None
    with torch.profiler.profile() as profile:
        block(x, routing=routing)
    names = {event.name for event in profile.events()}
    assert "mixture_of_mamba::mamba_block" in names
    assert "mixture_of_mamba::selective_scan" not in names


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_hangs_on_a_part_takes_part(way: Callable[..., None], part: str) -> None:
    block, routing, x = problem()
    plain = block(x, routing=routing)
    way(block, block.get_submodule(part), part)
    found = block(x, routing=routing)
    assert (found - plain).abs().max() > 1e-3
    torch.testing.assert_close(found, one_by_one(block, routing, x), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [ModalityLinear, DepthwiseConv])
def test_a_class_that_was_patched_is_called(
    kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    block, routing, x = problem()
    plain, old = block(x, routing=routing), kind.forward
    monkeypatch.setattr(kind, "forward", lambda *args, **kwargs: times(1.5, old(*args, **kwargs)))
    found = block(x, routing=routing)
    assert (found - plain).abs().max() > 1e-3
    torch.testing.assert_close(found, one_by_one(block, routing, x), atol=2e-6, rtol=1e-5)


@pytest.fixture
def seen() -> Iterator[list[str]]:
    """Classes of the modules that a global hook met."""
    names: list[str] = []
    handle = register_module_forward_hook(lambda module, *_: names.append(type(module).__name__))
    yield names
    handle.remove()


def test_global_hooks_meet_every_part(seen: list[str]) -> None:
    block, routing, x = problem()
    block(x, routing=routing)
    assert sorted(seen) == sorted(
        ["RMSNorm", "DepthwiseConv", "MambaMixer", "MambaBlock", *["ModalityLinear"] * 4]
    )


def test_backward_hooks_of_a_part_run() -> None:
    block, routing, x = problem()
    met: list[str] = []
    block.mixer.out_proj.register_full_backward_hook(lambda *_: met.append("hook"))
    block.mixer.x_proj.register_full_backward_pre_hook(lambda *_: met.append("pre-hook"))
    block(x.requires_grad_(), routing=routing).sum().backward()
    assert met == ["hook", "pre-hook"]


def test_ids_beside_a_routing_are_refused() -> None:
    block, routing, x = problem()
    with pytest.raises(ValueError, match=r"give the ids to Routing\.build, or to the block"):
        block(x, torch.zeros(2, 7, dtype=torch.int64), routing=routing)
