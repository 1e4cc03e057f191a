"""What is differentiated in a step: a model's loss, with the sums that the logs are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..models import MultimodalModel

__all__ = ["Objective", "Part"]


class Part:
    """A batch on its way through wrappers: not a collection, so that none of them looks inside."""

    __slots__ = ("batch",)

    def __init__(self, batch: Batch) -> None:
        self.batch = batch


class Objective(nn.Module):
    """The model as distributed wrappers want it: one call, tensors out."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model
        #: of the latest batch, by continuous modality: (10, 2) squared error and positions by level
        self.noise_levels: dict[str, Tensor] = {}

    def forward(self, part: Part) -> tuple[Tensor, Tensor]:
        """-> the loss (scalar), and (1 + 2m,) float32 sums: loss x number of targets, then by
        modality the sum of its losses, then its number of targets."""
        output = self.model(part.batch)
        self.noise_levels = output.extra.get("noise_levels", {})
        names = self.model.config.names
        counts = torch.stack([output.counts[name].float() for name in names])
        losses = torch.stack([output.losses[name].float() for name in names])
        totals = torch.where(counts > 0, losses * counts, 0.0)  # a mean over no targets is NaN
        loss = output.loss.detach().float() * counts.sum()
        return output.loss, torch.cat([loss[None], totals, counts])
