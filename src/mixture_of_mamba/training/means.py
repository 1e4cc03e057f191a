"""Mean losses by modality over the steps between two lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from ..models import Modality

__all__ = ["Means"]


class Means:
    """Means over the targets of many steps, from an objective's (2m,) sums.

    Args:
        modalities: of the model.
        rows: sums of steps that an interrupted run had not written yet.
    """

    def __init__(
        self, modalities: Sequence[Modality], rows: Iterable[Sequence[float]] = ()
    ) -> None:
        self.modalities = list(modalities)
        self.rows = [list(row) for row in rows]

    def add(self, sums: Sequence[float]) -> None:
        self.rows.append(list(sums))

    def compute_and_reset(self) -> tuple[float, dict[str, float | None]]:
        """-> the loss of all targets together, and by modality (None: no targets); starts again."""
        summed = torch.tensor(self.rows, dtype=torch.float64).sum(0)
        totals, counts = summed.chunk(2)
        self.rows = []
        losses = {
            modality.name: float(total / count) if count else None
            for modality, total, count in zip(self.modalities, totals, counts, strict=True)
        }
        return float(_loss(self.modalities, totals, counts)), losses


def _loss(
    modalities: Sequence[Modality], totals: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """`models.loss.total_loss` of many steps; each share is divided before the shares are added,
    which decides the last digits of the logs."""
    discrete = torch.tensor([m.discrete for m in modalities])
    weights = totals.new_tensor([m.loss_weight for m in modalities])
    targets = torch.where(discrete, torch.where(discrete, counts, 0).sum(), counts)
    return (weights * totals / targets.clamp(min=1.0)).sum()
