"""The gradient of one step, the same however its windows are divided into parts and ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..data.order import Schedule
from .config import TrainConfig
from .distributed import sum_over_ranks
from .evaluation import Windows
from .objective import Part
from .optimizer import limit_gradients

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
        the objective's (1 + 2m,) sums over all parts and ranks, and the gradients' norm (scalar)
        before the limit. Neither has been read: nothing waits for the device.
    """
    world = fabric.world_size
    size = config.batch_size // (config.accumulate * world)
    many = config.accumulate * world > 1
    total: Tensor | None = None
    for part in range(config.accumulate):
        place = (step - 1) * config.accumulate + part
        batch = windows.batch(order.indices(place, size, fabric.global_rank, world))
        batch = replace(batch, seed=step_seed(config.seed, place, fabric.global_rank))
        batch = batch.to(fabric.device, non_blocking=True)
        with fabric.no_backward_sync(module, enabled=part + 1 < config.accumulate):
            loss, sums = module(Part(batch))
            # Parts and ranks have different numbers of targets: add up sums, divide at the end.
            fabric.backward(loss * _targets(sums) if many else loss)
        total = sums if total is None else total + sums
    assert total is not None
    total = sum_over_ranks(fabric, total)
    # The wrappers average over ranks.
    factor = world / _targets(total).clamp(min=1.0) if many else None
    return total, limit_gradients(module.parameters(), config.clip, factor)


def _targets(sums: Tensor) -> Tensor:
    """Number of targets of all modalities; the second half of the sums."""
    return sums[1 + (len(sums) - 1) // 2 :].sum()


def step_seed(*numbers: int) -> int:
    """A seed of several numbers, without the collisions of a sum."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return seed
