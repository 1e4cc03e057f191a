"""The gradient of one step, the same however micro-batches and ranks divide its windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batch import Batch
from ..data.sampler import ShuffledSampler
from ..models import MultimodalModel
from .distributed import sum_over_ranks, to_device
from .evaluation import Windows
from .objective import MicroBatch
from .optimizer import clip_grad_norm
from .train_config import TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["accumulate_gradients"]


def accumulate_gradients(
    fabric: Fabric,
    module: Any,
    windows: Windows,
    sampler: ShuffledSampler,
    config: TrainConfig,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Forward and backward of a step's windows, and the clipping of the gradients.

    Args:
        module: the wrapped Objective; its gradients must be empty.
        sampler: which windows a step sees.
        step: counted from 1.

    Returns:
        the objective's (2m,) sums over all micro-batches and ranks, and the gradients' norm
        (scalar) before the clipping. Neither has been read: nothing waits for the device.
    """
    world = fabric.world_size
    batches = _micro_batches(fabric, module.model, windows, sampler, config, step)
    targets = None
    if len(batches) * world > 1:
        # Their numbers of targets differ; each micro-batch needs those of the whole step.
        counted = torch.stack([module.model.target_counts(batch) for batch in batches]).sum(0)
        targets = sum_over_ranks(fabric, counted) / world  # the wrappers average over ranks
    total: Tensor | None = None
    for number, batch in enumerate(batches, 1):
        with fabric.no_backward_sync(module, enabled=number < len(batches)):
            loss, sums, _ = module(MicroBatch(batch, targets))
            fabric.backward(loss)
        total = sums if total is None else total + sums
    assert total is not None
    return sum_over_ranks(fabric, total), clip_grad_norm(module.parameters(), config.max_grad_norm)


def _micro_batches(
    fabric: Fabric,
    model: MultimodalModel,
    windows: Windows,
    sampler: ShuffledSampler,
    config: TrainConfig,
    step: int,
) -> list[Batch]:
    """This rank's micro-batches of a step, on its device; each has its own seed for its noise."""
    batches = []
    world, rank = fabric.world_size, fabric.global_rank
    for number in range(config.gradient_accumulation_steps):
        position = (step - 1) * config.gradient_accumulation_steps + number
        indices = sampler.indices(position, config.micro_batch_size, rank, world)
        batch = windows.batch(indices, seed=_step_seed(config.seed, position, rank))
        batches.append(to_device(fabric, batch, model))
    return batches


def _step_seed(*numbers: int) -> int:
    """A seed of several numbers, without the collisions of a sum."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return seed
