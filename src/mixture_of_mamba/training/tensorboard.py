"""TensorBoard events of a run: losses, rate, and decoded samples."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import writing

__all__ = ["TensorBoardLog"]


class TensorBoardLog:
    """Writes under `folder/tensorboard`; a resumed run hides the events that it writes again.

    Attributes:
        writer: torch's SummaryWriter, for pictures and sound; None where TensorBoard is off.
    """

    def __init__(self, folder: Path, *, step: int, enabled: bool) -> None:
        self.writer: Any = None
        self._folder = folder / "tensorboard"
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    "train.tensorboard needs the package 'tensorboard'; install it with: "
                    "pip install 'mixture-of-mamba[train]', or use --train.tensorboard false"
                ) from error
            with writing(self._folder):
                self.writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl as scalars.

        Raises:
            WriteError: the events of an earlier line could not be written.
        """
        if self.writer is None:
            return
        with writing(self._folder):
            self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
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
            with suppress(OSError):  # `write` has raised it
                self.writer.close()
