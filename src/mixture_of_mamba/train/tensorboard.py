"""TensorBoard events of a run: losses, rate, and decoded samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["Board"]


class Board:
    """Writes under `folder/tensorboard`; a resumed run hides what it writes anew.

    Attributes:
        writer: torch's SummaryWriter, for pictures and sound; None where TensorBoard is off.
    """

    def __init__(self, folder: Path, *, step: int, enabled: bool) -> None:
        self.writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "train.tensorboard needs the package 'tensorboard'; install it with: "
                    "pip install 'mixture-of-mamba[train]', or use --train.tensorboard false"
                ) from error
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl as scalars."""
        if self.writer is None:
            return
        step, phase = line["step"], line["phase"]
        self.writer.add_scalar(f"{phase}/loss", line["loss"], step)
        for name, loss in line["losses"].items():
            if loss is not None:
                self.writer.add_scalar(f"{phase}/loss_{name}", loss, step)
        if phase == "train":
            for name in ("learning_rate", "gradient_norm", "tokens_per_second"):
                self.writer.add_scalar(f"train/{name}", line[name], step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
