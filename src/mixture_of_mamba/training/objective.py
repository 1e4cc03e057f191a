"""What is differentiated in a step: a model's loss, with the sums that the logs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..models import Modality, MultimodalModel

__all__ = ["Objective", "Part", "total_loss"]


class Part:
    """A batch on its way through wrappers: not a collection, so that none of them looks inside.

    Args:
        batch: the whole of a step's windows, or a part of them.
        targets: (m,) number of targets by modality in the whole; None: `batch` is the whole.
    """

    __slots__ = ("batch", "targets")

    def __init__(self, batch: Batch, targets: Tensor | None = None) -> None:
        self.batch, self.targets = batch, targets


class Objective(nn.Module):
    """The model as distributed wrappers want it: one call, tensors out."""

    def __init__(self, model: MultimodalModel) -> None:
        super().__init__()
        self.model = model
        #: of the latest batch, by continuous modality: (10, 2) squared error and positions by level
        self.noise_levels: dict[str, Tensor] = {}

    def forward(self, part: Part) -> tuple[Tensor, Tensor]:
        """-> the loss (scalar), or this part's share in the loss of the whole; and (2m,) float32:
        by modality the sum of its losses, then its number of targets."""
        output = self.model(part.batch)
        self.noise_levels = output.extra.get("noise_levels", {})
        names = self.model.config.names
        counts = torch.stack([output.counts[name].float() for name in names])
        losses = torch.stack([output.losses[name].float() for name in names])
        totals = torch.where(counts > 0, losses * counts, 0.0)  # a mean over no targets is NaN
        loss = output.loss
        if part.targets is not None:
            modalities = self.model.config.modalities
            whole = torch.stack([output.totals[name] for name in names])
            loss = total_loss(modalities, whole, part.targets.to(whole))
        return loss, torch.cat([totals, counts])


def total_loss(modalities: Sequence[Modality], totals: Tensor, counts: Tensor) -> Tensor:
    """The model's loss from (m,) sums of losses and (m,) numbers of targets.

    The mean over all discrete targets, each weighted by its modality's loss_weight, and for each
    continuous modality its loss_weight times its own mean.
    """
    discrete = torch.tensor([m.discrete for m in modalities], device=counts.device)
    weights = totals.new_tensor([m.loss_weight for m in modalities])
    targets = torch.where(discrete, torch.where(discrete, counts, 0).sum(), counts)
    return (weights * totals / targets.clamp(min=1.0)).sum()
