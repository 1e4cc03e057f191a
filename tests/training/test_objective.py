"""Parts of a batch share its loss by the targets of the whole, continuous modalities included."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.training.means import Means
from mixture_of_mamba.training.objective import MicroBatch, Objective

MODALITIES = [
    Modality("text", "discrete", 11, 0.5),
    Modality("image", "continuous", 4, 5.0),
    Modality("speech", "discrete", 7),
]


def batch_of(images: int, seed: int) -> Batch:
    """Two windows of 12 tokens; the first has an image of 4 patches where `images` is 1."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 2, 2, 2, 0]).repeat(2, 1)
    ids[1:] = torch.where(ids[1:] == 1, 0, ids[1:])
    if not images:
        ids[0] = 0
    tokens = torch.randint(0, 7, ids.shape, generator=draw)
    return Batch(
        modality_ids=ids,
        tokens=torch.where(ids == 1, 0, tokens),
        values={"image": torch.randn(int((ids == 1).sum()), 4, generator=draw)},
        document_ids=torch.arange(12).div(6, rounding_mode="floor").repeat(2, 1),
        loss_mask=torch.rand(ids.shape, generator=draw) < 0.8,
        seed=seed,
    )


@pytest.fixture
def objective() -> Objective:
    diffusion = {"cond_drop_prob": 0.5}
    config = ModelConfig(d_model=16, n_layers=1, modalities=MODALITIES, diffusion=diffusion)
    return Objective(MultimodalModel(config))


PARTS = [batch_of(1, 3), batch_of(0, 4), batch_of(1, 5)]


@pytest.mark.parametrize("training", [True, False])
def test_targets_are_counted_as_the_forward_counts_them(
    objective: Objective, training: bool
) -> None:
    objective.train(training)
    for batch in [*PARTS, replace(PARTS[0], loss_mask=None, document_ids=None)]:
        counts = objective.model(batch).counts
        assert torch.equal(objective.model.target_counts(batch), counts)


def test_shares_add_up_to_the_loss_and_gradient_of_the_whole(objective: Objective) -> None:
    """Against the loss written out: means over the targets of all parts together."""
    outputs = [objective.model(part) for part in PARTS]
    names = [m.name for m in MODALITIES]
    number = dict(zip(names, sum(o.counts for o in outputs), strict=True))
    total = dict(zip(names, sum(o.totals for o in outputs), strict=True))
    words = number["text"] + number["speech"]
    whole = (0.5 * total["text"] + total["speech"]) / words + 5 * total["image"] / number["image"]
    names, parameters = zip(*objective.named_parameters(), strict=True)
    wanted = torch.autograd.grad(whole, parameters)

    targets = torch.stack([objective.model.target_counts(part) for part in PARTS]).sum(0)
    objective.zero_grad()
    shares = [objective(MicroBatch(part, targets)) for part in PARTS]
    for share in shares:
        share.loss.backward()
    assert sum(share.loss.item() for share in shares) == pytest.approx(whole.item(), rel=1e-6)
    for name, parameter, gradient in zip(names, parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-5, msg=name)

    loss, losses = Means(MODALITIES, [share.sums.tolist() for share in shares]).compute_and_reset()
    assert loss == pytest.approx(whole.item(), rel=1e-6)
    assert losses["image"] == pytest.approx((total["image"] / number["image"]).item(), rel=1e-6)


def test_one_part_is_the_models_own_loss(objective: Objective) -> None:
    objective.eval()
    output = objective.model(PARTS[0])
    whole = objective(MicroBatch(PARTS[0]))
    share = objective(MicroBatch(PARTS[0], objective.model.target_counts(PARTS[0])))
    assert whole.loss.item() == share.loss.item() == output.loss.item()
    total = objective.model.total_loss(*whole.sums.chunk(2))
    assert total.item() == pytest.approx(output.loss.item(), rel=1e-6)
    assert torch.equal(whole.noise_levels["image"], output.noise_levels["image"])


def test_a_modality_without_targets_has_no_mean(objective: Objective) -> None:
    output = objective(MicroBatch(PARTS[1]))
    loss, losses = Means(MODALITIES, [output.sums.tolist()]).compute_and_reset()
    assert losses["image"] is None and losses["speech"] is not None
    assert torch.isfinite(torch.tensor(loss))
