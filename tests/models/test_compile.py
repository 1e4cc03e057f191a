"""A whole model is one graph, on the CPU's own kernels and on the portable ones."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.batch import Batch, _RowEnds
from mixture_of_mamba.models import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.ops import Routing, use_backend

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


def test_counts_of_the_host_stay_in_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device does not tell the counts, a batch that came from the host still does."""
    modalities = [Modality("text", "discrete", 9), Modality("image", "discrete", 11)]
    model, batch = (
        MultimodalModel(ModelConfig(d_model=16, n_layers=1, modalities=modalities)),
        _batch(),
    )
    ends = batch.to("meta").row_ends
    build = Routing.build.__func__  # type: ignore[attr-defined]

    def on_a_device(cls: type[Routing], *args: object, **options: Tensor) -> Routing:
        return replace(build(cls, *args, **options), host_offsets=options["host_offsets"])

    monkeypatch.setattr(Routing, "build", classmethod(on_a_device))
    batch = replace(batch, _row_ends=_RowEnds.of(ends, batch.modality_ids))
    with use_backend(**PORTABLE):  # "loop" refuses to serve without them
        torch._dynamo.reset()
        compiled = torch.compile(lambda: model(batch).loss, fullgraph=True, backend="aot_eager")
        found = _gradients(model, compiled)
        expected = _gradients(model, lambda: model(batch).loss)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
