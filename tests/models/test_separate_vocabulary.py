"""A softmax for each modality's own vocabulary, beside modalities that have none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.models import vocabulary as vocabulary_module

TEXT, SPEECH = Modality("text", "discrete", 20), Modality("speech", "discrete", 9)
IMAGE, VIDEO = Modality("image", "continuous", 6), Modality("video", "continuous", 3)
ORDERS = [(TEXT, SPEECH, IMAGE, VIDEO), (IMAGE, TEXT, VIDEO, SPEECH), (VIDEO, IMAGE, SPEECH, TEXT)]


def problem(order: tuple[Modality, ...], vocabulary: str) -> tuple[MultimodalModel, Batch]:
    torch.manual_seed(0)
    config = ModelConfig(
        d_model=16,
        n_layers=2,
        modalities=order,
        vocabulary=vocabulary,  # type: ignore[arg-type]
        diffusion={"cond_drop_prob": 0.0},
    )
    model = MultimodalModel(config).double()
    kinds = [m.name for m in order]
    ids = torch.tensor(
        [[kinds.index(n) for n in ("text", "image", "image", "speech", "video", "text", "text")]]
    ).repeat(2, 3)
    sizes = torch.tensor([m.size if m.discrete else 1 for m in order])
    tokens = torch.randint(1000, ids.shape) % sizes[ids]
    values = {
        m.name: torch.randn(int((ids == i).sum()), m.size)
        for i, m in enumerate(order)
        if not m.discrete
    }
    mask = torch.rand(ids.shape) < 0.8
    return model, Batch(tokens=tokens, modality_ids=ids, values=values, loss_mask=mask, seed=0)


@pytest.mark.parametrize("keep_logits", [True, False])
@pytest.mark.parametrize("vocabulary", ["separate", "shared"])
@pytest.mark.parametrize("order", ORDERS)
def test_losses_are_those_of_each_targets_own_softmax(
    order: tuple[Modality, ...],
    vocabulary: str,
    keep_logits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not keep_logits:
        monkeypatch.setattr(vocabulary_module, "KEEP_LOGITS", 0)
    model, batch = problem(order, vocabulary)
    output = model(batch, return_logits=True)
    assert output.logits is not None and batch.loss_mask is not None
    for m, modality in enumerate(order):
        if not modality.discrete:
            continue
        low, high = model.config.vocabulary_ranges[m]
        here = (batch.modality_ids[:, 1:] == m) & batch.loss_mask[:, 1:]
        logits, targets = output.logits[:, :-1][here], batch.tokens[:, 1:][here]
        if vocabulary == "separate":
            expected = F.cross_entropy(logits[:, low:high], targets)
        else:
            expected = F.cross_entropy(logits, targets + low)
        torch.testing.assert_close(output.losses[modality.name], expected.detach())
        assert int(output.counts[m]) == int(here.sum())
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
