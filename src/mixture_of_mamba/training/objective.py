"""The training objective: a model's loss, and the sums that are logged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..models import MultimodalModel

__all__ = ["MicroBatch", "Objective", "ObjectiveOutput"]


class MicroBatch:
    """A batch for the wrapped objective; not a collection, so that no wrapper converts its tensors.

    Args:
        batch: the whole of a step's windows, or a part of them.
        targets: (m,) number of targets by modality in the whole; None: `batch` is the whole.
    """

    __slots__ = ("batch", "targets")

    def __init__(self, batch: Batch, targets: Tensor | None = None) -> None:
        self.batch, self.targets = batch, targets


class ObjectiveOutput(NamedTuple):
    """What the objective gives for one micro-batch.

    Attributes:
        loss: scalar; the micro-batch's share in the loss of the whole.
        sums: (2m,) float32, by modality the sum of its losses, then its number of targets.
        noise_levels: see ModelOutput.
    """

    loss: Tensor
    sums: Tensor
    noise_levels: dict[str, Tensor]


class Objective(nn.Module):
    """The model as distributed wrappers want it: one call, tensors out."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro_batch: MicroBatch) -> ObjectiveOutput:
        """Loss and sums of one micro-batch."""
        output = self.model(micro_batch.batch)
        counts = output.counts.float()
        totals = torch.where(counts > 0, output.means.float() * counts, 0.0)
        loss = output.loss
        if micro_batch.targets is not None:
            loss = self.model.total_loss(output.totals, micro_batch.targets.to(output.totals))
        return ObjectiveOutput(loss, torch.cat([totals, counts]), output.noise_levels)
