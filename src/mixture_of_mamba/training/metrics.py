"""metrics.jsonl: one object a line, appended and flushed, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..files import replacing, writing
from ..models import Modality

__all__ = ["Means", "MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends to a run's metrics.jsonl.

    Args:
        path: the file.
        up_to: lines of later steps are removed first (a resumed run writes them anew), and so is a
            line that a kill left unfinished.
    """

    def __init__(self, path: Path, *, up_to: int) -> None:
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= up_to]
            with replacing(path) as part:
                part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._path = path
        with writing(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; it is on its way to the disk when this returns.

        Raises:
            WriteError: the file cannot grow; a line that was begun is cut at resume.
        """
        with writing(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until every line is on the disk, so that a checkpoint is never ahead of the log."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # `write` has raised it, and what it could not write is still there
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; an unfinished last line is left out.

    Raises:
        ValueError: a line in the middle that is no JSON object.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    read = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is no JSON object: {error}") from error
    return read


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
        """-> the loss of all targets together, and by modality (None: no targets); starts anew."""
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
