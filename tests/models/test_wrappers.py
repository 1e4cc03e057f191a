"""Hooks and wrappers that other libraries put on a model's modules, in a user's own loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils.fsdp_utils import fsdp2_apply_ac
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from mixture_of_mamba import Batch, MambaBlock, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.decoders import CachedDecoder
from mixture_of_mamba.layers.transformer import TransformerBlock
from mixture_of_mamba.ops import native

MIXERS = ["mamba", "attention"]


def make(mixer: str = "mamba", **fields: Any) -> MultimodalModel:
    modalities = [Modality("text", "discrete", 13), Modality("image", "discrete", 9)]
    shape: dict[str, Any] = {"d_model": 16, "n_layers": 3, "d_state": 4, "head_dim": 8}
    return MultimodalModel(ModelConfig(**shape, mixer=mixer, modalities=modalities, **fields))


@pytest.fixture
def batch() -> Batch:
    modality = torch.randint(2, (2, 12))
    return Batch(tokens=torch.randint(9, modality.shape), modality_ids=modality)


def gradients(model: MultimodalModel, batch: Batch) -> list[Tensor]:
    loss = model(batch).loss
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_hooks_on_blocks_run_and_may_change_the_rows(mixer: str, batch: Batch) -> None:
    """Doubling what the second block adds is doubling its out_proj."""
    hooked, scaled, met = make(mixer), make(mixer), []

    def double(module: Any, args: tuple[Tensor], kwargs: Any, out: Any) -> Any:
        met.append(module)
        return 2 * out[0] - args[0], out[1]

    hooked.backbone.blocks[1].register_forward_hook(double, with_kwargs=True)
    with torch.no_grad():
        scaled.backbone.blocks[1].mixer.out_proj.weight.mul_(2)
    found, wanted = (m(batch, return_logits=True).logits for m in (hooked, scaled))
    assert met == [hooked.backbone.blocks[1]]
    assert (found - make(mixer)(batch, return_logits=True).logits).abs().max() > 1e-4
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


def test_the_head_is_called_where_losses_are_computed(batch: Batch) -> None:
    model, met = make(), []
    model.head.register_forward_pre_hook(lambda module, args: met.append(args[0].shape))
    model(batch)
    assert met == [(24, 16)]


@pytest.mark.parametrize("implementation", CheckpointImpl, ids=lambda i: i.name)
@pytest.mark.parametrize("mixer", MIXERS)
def test_activation_checkpointing_of_torch(
    mixer: str, implementation: CheckpointImpl, batch: Batch
) -> None:
    model = make(mixer)
    wanted = gradients(model, batch)
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=implementation),
        check_fn=lambda module: isinstance(module, MambaBlock | TransformerBlock),
    )
    calls: list[Any] = []
    kind = MambaBlock if mixer == "mamba" else TransformerBlock
    blocks = [m for m in model.modules() if isinstance(m, kind)]
    for block in blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = model(batch).loss
    assert len(calls) == len(blocks) == 3
    loss.backward()
    assert len(calls) == 6  # each block once more
    assert_same([loss.detach(), *(p.grad for p in model.parameters())], wanted)  # type: ignore[misc]


def test_activation_checkpointing_of_accelerate(batch: Batch) -> None:
    model = make()
    wanted, calls = gradients(model, batch), []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    plugin = SimpleNamespace(
        auto_wrap_policy=transformer_auto_wrap_policy,
        transformer_cls_names_to_wrap=["MambaBlock"],
        activation_checkpointing_offload=True,
    )
    fsdp2_apply_ac(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)), model)
    assert_same(gradients(model, batch), wanted)
    assert len(calls) == 2 * 3


@pytest.mark.parametrize("mixer", MIXERS)
def test_compiled_blocks_run_compiled(mixer: str, batch: Batch) -> None:
    model, graphs = make(mixer), []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    wanted = gradients(model, batch)
    torch._dynamo.reset()
    for block in model.backbone.blocks:
        block.compile(backend=backend, fullgraph=True)
    assert_same(gradients(model, batch), wanted)
    assert len(graphs) >= (1 if mixer == "mamba" else 2)


def test_weights_that_are_elsewhere_between_calls(batch: Batch) -> None:
    """accelerate keeps every parameter off the device; each module fetches its own when called."""
    plain = make().eval()
    offloaded = accelerate.cpu_offload(copy.deepcopy(plain), execution_device="cpu")
    assert {p.device.type for p in offloaded.parameters()} == {"meta"}
    with torch.no_grad():
        found, wanted = (
            m(batch, return_logits=True, return_state=True) for m in (offloaded, plain)
        )
    assert_same([found.loss, found.logits], [wanted.loss, wanted.logits])
    tokens, ids = batch.tokens[:, :3], batch.modality_ids[:, :3]
    after, expected = (
        m.advance(tokens, ids, s.state)[0] for m, s in ((offloaded, found), (plain, wanted))
    )
    assert_same([after], [expected])
    assert type(decoder_maker(offloaded)()) is CachedDecoder


class Doubling(ModelHook):  # type: ignore[misc]
    """A hook of accelerate's, which replaces `forward` on the instance."""

    def post_forward(self, module: Any, output: Any) -> Any:
        return 2 * output


HANG: dict[str, Callable[[MultimodalModel], object]] = {
    "hook on the backbone": lambda m: m.backbone.register_forward_hook(lambda *_: None),
    "hook on a block": lambda m: m.backbone.blocks[1].register_forward_pre_hook(lambda *_: None),
    "hook on a part": lambda m: m.backbone.blocks[1].mixer.conv1d.register_forward_hook(
        lambda *_: None
    ),
    "hook on the norm": lambda m: m.backbone.norm.register_forward_hook(lambda *_: None),
    "hook on the head": lambda m: m.head.register_forward_hook(lambda *_: None),
    "accelerate on a part": lambda m: add_hook_to_module(
        m.backbone.blocks[0].mixer.out_proj, Doubling()
    ),
    "accelerate on the norm": lambda m: add_hook_to_module(m.backbone.norm, Doubling()),
}


@pytest.mark.parametrize("what", HANG)
def test_decoding_passes_no_hook_by(what: str) -> None:
    model = make().eval()
    make_decoder = decoder_maker(model)
    assert type(make_decoder()) is not CachedDecoder
    HANG[what](model)
    assert type(make_decoder()) is CachedDecoder  # of a maker from before
    assert type(decoder_maker(model)()) is CachedDecoder
    if native.why_not() is None:
        with pytest.raises(ValueError, match=r"cannot be decoded natively: .* hooked or replaced"):
            decoder_maker(model, "int8")


def test_decoding_passes_no_global_hook_by() -> None:
    model = make().eval()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert type(decoder_maker(model)()) is CachedDecoder
    finally:
        handle.remove()
    assert type(decoder_maker(model)()) is not CachedDecoder
