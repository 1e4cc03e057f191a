"""Loss sums of the latest steps: kept on the device until they are read and checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..models import Modality
from .checkpoint_folders import checkpoints
from .means import Means

__all__ = ["NonFiniteLoss", "StepSums", "check_finite"]


class NonFiniteLoss(RuntimeError):
    """A loss or gradient became NaN or infinite; the message names step and modality."""

    def __init__(self, what: str, step: int, folder: Path) -> None:
        saved = checkpoints(folder)
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        super().__init__(
            f"{what} became NaN or infinite at step {step}; {kept}; lower train.learning_rate, "
            "lengthen train.warmup, or look at the data of this modality"
        )


class StepSums(Means):
    """Means over the targets of the steps since the last line of the log.

    Args:
        folder: of the run, for errors.
        modalities: of the model.
        rows: sums of steps that an interrupted run had not written yet.

    Attributes:
        norm: of the gradients of the latest step that was read.
    """

    def __init__(
        self, folder: Path, modalities: Sequence[Modality], rows: Iterable[Sequence[float]] = ()
    ) -> None:
        super().__init__(modalities, rows)
        self.norm = 0.0
        self._folder = folder
        self._unread: dict[int, Tensor] = {}

    def add_step(self, step: int, sums: Tensor, norm: Tensor) -> None:
        """Keep the (2m,) sums and the gradients' norm of a step; nothing waits for the device."""
        self._unread[step] = torch.cat([norm.float()[None], sums])

    def read(self) -> None:
        """Read what was added since the last call.

        Raises:
            NonFiniteLoss: a step's loss or gradient is NaN or infinite.
        """
        if not self._unread:
            return
        rows = torch.stack(list(self._unread.values())).tolist()
        steps, self._unread = list(self._unread), {}
        for step, (norm, *row) in zip(steps, rows, strict=True):
            totals = dict(zip((m.name for m in self.modalities), row, strict=False))
            if bad := _not_finite(totals):
                raise NonFiniteLoss(f"the loss of {bad}", step, self._folder)
            if not all(map(math.isfinite, (norm, *row))):
                raise NonFiniteLoss("the norm of the gradients", step, self._folder)
            self.add(row)
            self.norm = norm


def check_finite(losses: Mapping[str, float | None], step: int, folder: Path) -> None:
    """Raise for validation losses that are NaN or infinite.

    Raises:
        NonFiniteLoss: naming the modalities.
    """
    if bad := _not_finite(losses):
        raise NonFiniteLoss(f"the validation loss of {bad}", step, folder)


def _not_finite(losses: Mapping[str, float | None]) -> str:
    """The modalities whose loss is NaN or infinite, as words."""
    bad = [name for name, loss in losses.items() if loss and not math.isfinite(loss)]
    return " and ".join(bad)
