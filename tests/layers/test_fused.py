"""The block in one op against the composed block: outputs, states and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import PROJECTIONS, MambaBlock, MambaConfig, MambaState, use_backend
from mixture_of_mamba.layers import block as block_module
from mixture_of_mamba.layers.fused import fused_weights
from mixture_of_mamba.ops import Routing, native

pytestmark = pytest.mark.skipif(native.why_not() is not None, reason=str(native.why_not()))

CASES = {
    "dense": {"split": frozenset()},
    "mixture": {"n_modalities": 3},
    "part split": {"n_modalities": 2, "split": frozenset({"x_proj", "out_proj"})},
    "biases": {"n_modalities": 2, "bias": True},
    "no convolution bias, odd sizes": {"n_modalities": 2, "conv_bias": False, "d_state": 5},
}


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[MambaBlock, Routing, Tensor]:
    torch.manual_seed(0)
    block = MambaBlock(MambaConfig(d_model=22, **CASES[name]))
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.1 * torch.randn_like(p))
    ids = torch.randint(block.config.n_modalities, (2, 37))
    documents = (torch.rand(2, 37) < 0.1).cumsum(1)
    routing = Routing.build(ids, block.config.n_modalities, documents)
    return block.to(dtype), routing, torch.randn(74, 22, dtype=dtype)


def run(
    block: MambaBlock, routing: Routing, x: Tensor, state: MambaState | None
) -> dict[str, Tensor]:
    leaves = {"x": x.detach().requires_grad_()}
    if state is not None:
        leaves["conv"], leaves["ssm"] = (s.detach().requires_grad_() for s in state)
        state = MambaState(leaves["conv"], leaves["ssm"])
    y, after = block(leaves["x"], routing=routing, state=state, return_state=True)
    torch.manual_seed(1)
    outputs = [y, *after]
    cotangents = [torch.randn(o.shape).to(o.dtype) for o in outputs]
    wanted = {**leaves, **dict(block.named_parameters())}
    found = torch.autograd.grad(outputs, list(wanted.values()), cotangents)
    return {"y": y, "conv after": after.conv, "ssm after": after.ssm} | {
        f"gradient of {name}": g for name, g in zip(wanted, found, strict=True)
    }


def composed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_module, "fused_weights", lambda *_: None)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("with_state", [False, True])
def test_equals_the_composed_block(
    name: str, with_state: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, routing, x = make(name)
    state = None
    if with_state:
        state = MambaState(torch.randn(2, 3, 44), torch.randn(2, 44, block.config.d_state))
    assert fused_weights(block, x, routing, state) is not None
    found = run(block, routing, x, state)
    composed(monkeypatch)
    expected = run(block, routing, x, state)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(found[key], value, rtol=0, atol=2e-6 * scale, msg=key)


def test_bfloat16_is_near_the_float32_block(monkeypatch: pytest.MonkeyPatch) -> None:
    block, routing, x = make("mixture", torch.bfloat16)
    found = run(block, routing, x, None)
    composed(monkeypatch)
    expected = run(block.float(), routing, x.float(), None)
    for key, value in expected.items():
        scale = float(value.detach().abs().max())
        torch.testing.assert_close(found[key].float(), value, rtol=0, atol=1e-2 * scale, msg=key)


def test_no_gradient_saves_nothing_and_gives_the_same() -> None:
    block, routing, x = make("mixture")
    y = block(x, routing=routing)
    with torch.no_grad():
        again = block(x, routing=routing)
    assert torch.equal(y, again)


def test_modality_without_rows_gets_zero_gradients() -> None:
    block, _, x = make("mixture")
    routing = Routing.build(torch.zeros(2, 37, dtype=torch.long), 3)
    y = block(x, routing=routing)
    y.sum().backward()
    for name in PROJECTIONS:
        grad = getattr(block.mixer, name).weight.grad
        assert not grad[1:].any()
        assert grad[0].any()


@pytest.mark.parametrize(
    "reason", ["hook", "replaced", "float64", "autocast", "named backend", "wrong rows"]
)
def test_steps_aside(reason: str) -> None:
    block, routing, x = make("mixture")
    assert fused_weights(block, x, routing, None) is not None
    if reason == "hook":
        block.mixer.x_proj.register_forward_hook(lambda *_: None)
    elif reason == "replaced":
        block.mixer.out_proj = torch.nn.Sequential(block.mixer.out_proj)
    elif reason == "float64":
        block, x = block.double(), x.double()
    elif reason == "wrong rows":
        x = x[:-1]
    if reason == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert fused_weights(block, x, routing, None) is None
    elif reason == "named backend":
        with use_backend(selective_scan="torch"):
            assert fused_weights(block, x, routing, None) is None
    else:
        assert fused_weights(block, x, routing, None) is None


def test_compiles_to_one_graph() -> None:
    block, routing, x = make("mixture")

    def loss(x: Tensor) -> Tensor:
        return block(x, routing=routing).square().sum()

    expected = torch.autograd.grad(loss(x.requires_grad_()), [x, *block.parameters()])
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(x), [x, *block.parameters()])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_op_passes_the_checks_of_torch() -> None:
    from mixture_of_mamba.layers.fused import block_weights
    from mixture_of_mamba.ops.mamba_block.op import block as op

    block, routing, x = make("mixture")
    weights = [v if v is None else v.detach().requires_grad_() for v in block_weights(block)]
    args = (
        *(x.requires_grad_(), *weights, None, None, *routing.arguments),
        *(routing.offsets, 1e-5, True),
    )
    torch.library.opcheck(op, args, test_utils=("test_schema", "test_faketensor"))
