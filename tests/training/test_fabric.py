"""What training takes from Lightning Fabric, against the same steps in torch alone."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import nn

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.data.sampler import ShuffledSampler
from mixture_of_mamba.training.distributed import make_fabric, sum_over_ranks
from mixture_of_mamba.training.gradients import accumulate_gradients
from mixture_of_mamba.training.objective import MicroBatch, Objective, ObjectiveOutput
from tests.factories.training import SIZES, Windows, tiny_config

STEPS, RATE, CLIP = 4, 0.05, 0.5


def model() -> MultimodalModel:
    modalities = [Modality(name, "discrete", size) for name, size in SIZES.items()]
    return MultimodalModel(ModelConfig(d_model=16, n_layers=2, modalities=modalities))


def in_torch(windows: Windows, config: Any) -> tuple[list[float], list[float], nn.Module]:
    """Losses, gradient norms and the model; whole batches, or in autocast part by part."""
    ours, order = model(), ShuffledSampler(len(windows), config.seed)
    optimizer = torch.optim.SGD(ours.parameters(), lr=RATE)
    losses, norms = [], []
    half = config.precision == "bf16"
    for step in range(STEPS):
        optimizer.zero_grad()
        count = config.gradient_accumulation_steps
        places = range(step * count, (step + 1) * count)
        size = config.batch_size // count
        parts = [windows.batch(order.indices(p, size, 0, 1)) for p in places]
        totals, counts = 0.0, 0.0
        for part in parts:
            cast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
            with cast:
                out = ours(part)
            totals = totals + out.totals.sum()
            counts = counts + out.counts.sum()
        loss = totals / counts
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(ours.parameters(), CLIP)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, norms, ours


def in_fabric(windows: Windows, config: Any) -> tuple[list[float], list[float], nn.Module]:
    fabric = make_fabric(config)
    fabric.launch()
    objective = Objective(model())
    module = fabric.setup_module(objective)
    optimizer = torch.optim.SGD(objective.parameters(), lr=RATE)
    order, losses, norms = ShuffledSampler(len(windows), config.seed), [], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        sums, norm = accumulate_gradients(fabric, module, windows, order, config, step)
        optimizer.step()
        half = len(sums) // 2
        losses.append(float(sums[:half].sum() / sums[half:].sum()))
        norms.append(float(norm))
    return losses, norms, objective.model


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_are_those_of_torch(accumulate: int, precision: str) -> None:
    config = tiny_config(
        gradient_accumulation_steps=accumulate, precision=precision, max_grad_norm=CLIP
    ).train
    windows = Windows(40, text_only=True)
    (losses, norms, ours), (wanted, expected, theirs) = (
        f(windows, config) for f in (in_fabric, in_torch)
    )
    assert min(expected) > CLIP  # the limit is at work
    assert losses == pytest.approx(wanted, rel=1e-5)
    # parts in bfloat16 are rounded each for itself, whichever way their gradients are added up
    near = {"float32": 1e-5, "bf16": 2e-3}[precision]
    assert norms == pytest.approx(expected, rel=near)
    start = model()
    for name, p in theirs.named_parameters():
        moved = p - start.get_parameter(name)
        found = ours.get_parameter(name) - start.get_parameter(name)
        assert moved.any(), name
        torch.testing.assert_close(found, moved, rtol=0, atol=near * float(moved.abs().max()))


def test_a_part_reaches_the_objective_as_it_is_and_names_stay() -> None:
    """Nothing is converted, moved or renamed on the way through the wrapper."""
    met: list[Any] = []

    class Watching(Objective):
        def forward(self, part: MicroBatch) -> ObjectiveOutput:
            met.append(part)
            return super().forward(part)

    objective = Watching(model())
    fabric = make_fabric(tiny_config().train)
    module = fabric.setup_module(objective)
    part = MicroBatch(Windows(4).batch([0, 1]))
    loss, sums, _ = module(part)
    assert met == [part]
    assert module.model is objective.model
    assert loss.dtype == sums.dtype == torch.float32
    assert dict(module.state_dict()).keys() == objective.state_dict().keys()
    assert [id(p) for p in module.parameters()] == [id(p) for p in objective.parameters()]
    assert torch.equal(sum_over_ranks(fabric, sums), sums)
