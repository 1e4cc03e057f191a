"""A block on a GPU: no waiting for the device, CUDA graphs, autocast, compiling, recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixture_of_mamba.batch import Batch
from mixture_of_mamba.layers import MambaBlock, MambaConfig
from mixture_of_mamba.layers.activation_checkpointing import checkpoint_contexts
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.ops import Routing

B, T, D = 2, 192, 64


def _block() -> MambaBlock:
    torch.manual_seed(0)
    return MambaBlock(MambaConfig(d_model=D, n_modalities=2)).to("cuda")


def _problem() -> tuple[Tensor, Routing]:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, (B, T), generator=g).to("cuda")
    documents = (torch.rand(B, T, generator=g) < 0.05).cumsum(1).to("cuda")
    x = torch.randn(B * T, D, generator=g).to("cuda")
    return x, Routing.build(ids, 2, documents)


def _gradients(block: MambaBlock, x: Tensor, routing: Routing, dtype: torch.dtype) -> list[Tensor]:
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        y = block(x, routing=routing)
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), list(block.parameters()))]


def _near(found: list[Tensor], expected: list[Tensor], limit: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b.double()).norm() <= limit * b.double().norm()


@contextmanager
def _no_waiting() -> Iterator[None]:
    """A call that waits for the device raises."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_a_block_never_waits_for_the_device() -> None:
    block, (x, routing) = _block(), _problem()
    _gradients(block, x, routing, torch.bfloat16)  # compiles
    with _no_waiting():
        _gradients(block, x, routing, torch.bfloat16)


def test_autocast_stays_near_float32() -> None:
    block, (x, routing) = _block(), _problem()
    expected = _gradients(block, x, routing, torch.float32)
    _near(_gradients(block, x, routing, torch.bfloat16), expected, 3e-2)


def test_a_captured_block_replays_on_new_values() -> None:
    block, (x, routing) = _block(), _problem()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            _gradients(block, x, routing, torch.bfloat16)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _gradients(block, x, routing, torch.bfloat16)
    x.copy_(torch.randn_like(x))
    graph.replay()
    for a, b in zip(captured, _gradients(block, x, routing, torch.bfloat16), strict=True):
        assert torch.equal(a, b)


def test_recomputation_changes_no_bit() -> None:
    block, (x, routing) = _block(), _problem()
    x.requires_grad_()
    plain = block(x, routing=routing)
    again = checkpoint(
        block, x, routing=routing, use_reentrant=False, context_fn=checkpoint_contexts
    )
    leaves = [x, *block.parameters()]
    for a, b in zip(
        torch.autograd.grad(plain.square().sum(), leaves),
        torch.autograd.grad(again.square().sum(), leaves),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_a_whole_model_compiles_into_one_graph() -> None:
    modalities = [Modality("text", "discrete", 30), Modality("image", "discrete", 20)]
    config = ModelConfig(d_model=D, n_layers=2, modalities=modalities)
    model = MultimodalModel(config).to("cuda")
    g = torch.Generator().manual_seed(0)
    batch = Batch(
        tokens=torch.randint(20, (B, T), generator=g).to("cuda"),
        modality_ids=torch.randint(2, (B, T), generator=g).to("cuda"),
    )

    def loss() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return model(batch).loss

    torch._dynamo.reset()
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss(), parameters)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True)(), parameters)
    _near(list(found), list(expected), 3e-2)
