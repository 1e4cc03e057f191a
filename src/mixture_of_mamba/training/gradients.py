"""The gradient of one step, the same however its windows are divided into parts and ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batch import Batch
from ..data.sampler import Schedule
from ..models import MultimodalModel
from .config import TrainConfig
from .distributed import sum_over_ranks, to_device
from .evaluation import Windows
from .objective import Part
from .optimizer import clip_grad_norm

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["step_gradients", "step_seed"]


def step_gradients(
    fabric: Fabric,
    module: Any,
    windows: Windows,
    order: Schedule,
    config: TrainConfig,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Forward and backward of a step's windows, and the limit on the gradients.

    Args:
        module: the wrapped Objective; its gradients must be empty.
        order: which windows a step sees.
        step: counted from 1.

    Returns:
        the objective's (2m,) sums over all parts and ranks, and the gradients' norm (scalar)
        before the limit. Neither has been read: nothing waits for the device.
    """
    world = fabric.world_size
    batches = _parts(fabric, module.model, windows, order, config, step)
    targets = None
    if len(batches) * world > 1:
        # Parts and ranks have different numbers of targets; each needs those of the whole step.
        counted = torch.stack([module.model.target_counts(batch) for batch in batches]).sum(0)
        targets = sum_over_ranks(fabric, counted) / world  # the wrappers average over ranks
    total: Tensor | None = None
    for part, batch in enumerate(batches, 1):
        with fabric.no_backward_sync(module, enabled=part < len(batches)):
            loss, sums = module(Part(batch, targets))
            fabric.backward(loss)
        total = sums if total is None else total + sums
    assert total is not None
    return sum_over_ranks(fabric, total), clip_grad_norm(module.parameters(), config.max_grad_norm)


def _parts(
    fabric: Fabric,
    model: MultimodalModel,
    windows: Windows,
    order: Schedule,
    config: TrainConfig,
    step: int,
) -> list[Batch]:
    """This rank's parts of a step, on its device; each with a seed of its own for its noise."""
    size = config.batch_size // (config.gradient_accumulation_steps * fabric.world_size)
    batches = []
    for part in range(config.gradient_accumulation_steps):
        place = (step - 1) * config.gradient_accumulation_steps + part
        batch = windows.batch(order.indices(place, size, fabric.global_rank, fabric.world_size))
        batch = replace(batch, seed=step_seed(config.seed, place, fabric.global_rank))
        batches.append(to_device(fabric, batch, model))
    return batches


def step_seed(*numbers: int) -> int:
    """A seed of several numbers, without the collisions of a sum."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return seed
