"""Validation losses on the same windows every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from ..models.diffusion import NOISE_BINS
from .distributed import sum_over_ranks, to_device
from .means import Means
from .objective import MicroBatch
from .random_state import isolated_rng
from .train_config import TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from ..batch import Batch

__all__ = ["ValidationLosses", "Windows", "validation_losses"]

#: Of the noise that continuous modalities are evaluated with: the same at every evaluation.
_NOISE_SEED = 20_250_127


class Windows(Protocol):
    """Packed windows of tokens, as the data room builds them."""

    def __len__(self) -> int: ...

    def batch(self, indices: Any, *, seed: int | None = None) -> Batch: ...


class ValidationLosses(NamedTuple):
    """Losses over windows of the validation split.

    Attributes:
        loss: as training minimises it.
        losses: mean by modality; None without targets.
        noise_levels: by continuous modality, its mean by noise level, from clean to noise; None
            without positions.
    """

    loss: float
    losses: dict[str, float | None]
    noise_levels: dict[str, list[float | None]]


@torch.no_grad()
def validation_losses(
    fabric: Fabric, objective: Any, windows: Windows, config: TrainConfig
) -> ValidationLosses:
    """Losses over the first windows of the validation split.

    Every call sees the same windows and the same noise, whatever training has drawn in between, and
    leaves the random number generators alone.
    """
    count = len(windows)
    if config.evaluate_batches:
        count = min(count, config.evaluate_batches * config.batch_size)
    world, rank = fabric.world_size, fabric.global_rank
    modalities = objective.model.config.modalities
    sums = torch.zeros(2 * len(modalities), dtype=torch.float64)
    levels = {m.name: torch.zeros(NOISE_BINS, 2) for m in modalities if not m.discrete}
    size = config.micro_batch_size
    objective.eval()
    with isolated_rng(_NOISE_SEED + rank):
        # Every rank makes the same number of calls, because each gathers sharded parameters; a
        # rank that runs out repeats the last window and does not count it.
        for first in range(0, count, size * world):
            own = [i for i in range(first + rank * size, first + (rank + 1) * size) if i < count]
            batch = windows.batch(own or [count - 1], seed=_NOISE_SEED + first + rank)
            output = objective(MicroBatch(to_device(fabric, batch, objective.model)))
            if not own:
                continue
            sums += output.sums.double().cpu()
            for name, level_sums in levels.items():
                level_sums += output.noise_levels[name].float().cpu()
    objective.train()
    total = sum_over_ranks(fabric, sums.to(fabric.device)) if world > 1 else sums
    if world > 1:
        levels = {n: sum_over_ranks(fabric, x.to(fabric.device)).cpu() for n, x in levels.items()}
    by_level = {
        name: [error / count if count else None for error, count in x.tolist()]
        for name, x in levels.items()
    }
    return ValidationLosses(*Means(modalities, [total.tolist()]).compute_and_reset(), by_level)
