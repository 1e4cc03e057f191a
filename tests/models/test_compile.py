"""A whole model is one graph, on the CPU's own kernels and on the portable ones."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.data.batch import Batch
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.ops import use_backend

PORTABLE = {"selective_scan": "torch", "causal_conv1d": "torch", "modality_linear": "loop"}


def _batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(2, (2, 12), generator=g)
    return Batch(
        tokens=torch.randint(9, (2, 12), generator=g),
        modality_ids=ids,
        document_ids=(torch.rand(2, 12, generator=g) < 0.2).cumsum(1),
    )


def _gradients(model: MultimodalModel, call: object) -> list[Tensor]:
    loss = call()  # type: ignore[operator]
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("backends", [{}, PORTABLE], ids=["automatic", "portable"])
@pytest.mark.parametrize("vocabulary", ["shared", "separate"])
def test_one_graph(vocabulary: str, backends: dict[str, str], recompute: bool) -> None:
    modalities = [Modality("text", "discrete", 9), Modality("image", "discrete", 11)]
    config = ModelConfig(d_model=16, n_layers=2, modalities=modalities, vocabulary=vocabulary)
    model, batch = MultimodalModel(config), _batch()
    model.backbone.checkpoint_activations = recompute

    def loss() -> Tensor:
        return model(batch).loss

    torch._dynamo.reset()
    with use_backend(**backends) if backends else contextlib.nullcontext():
        expected = _gradients(model, loss)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        found = _gradients(model, compiled)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
