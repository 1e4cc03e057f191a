"""Validation loss of a saved run, by modality."""

from __future__ import annotations

from dataclasses import replace

from ..training.distributed import make_fabric
from ..training.evaluation import Windows, validation_losses
from ..training.objective import Objective
from ..training.runs import Run

__all__ = ["validation_loss"]


def validation_loss(
    run: Run, windows: Windows, *, batches: int | None = None
) -> dict[str, float | None]:
    """Mean loss by modality (nats per token; mean squared error where continuous).

    Deterministic, noise of continuous modalities included; with the run's own validation windows
    and number of batches it is what the last line of its metrics.jsonl says.

    Args:
        run: from load_run.
        windows: validation windows that were made with the run's tokenizers.
        batches: of train.batch_size windows; 0 for all, None for the run's evaluate_batches.

    Returns:
        Loss by modality; None where the windows have no target of it.
    """
    train = replace(run.config.train, devices=1, accumulate=1)
    if batches is not None:
        train = replace(train, evaluate_batches=batches)
    fabric = make_fabric(train)
    objective = Objective(run.model).to(fabric.device)
    return validation_losses(fabric, objective, windows, train)[1]
