"""The log of a run: metrics.jsonl, TensorBoard events and the progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import TrainState
from .lr_schedule import learning_rate
from .metrics import MetricsLog
from .progress_bar import TrainProgressBar
from .tensorboard import TensorBoardLog
from .train_config import TrainConfig

__all__ = ["RunLog"]

Losses = dict[str, float | None]


class RunLog:
    """Writes the lines of a run.

    Args:
        folder: of the run.
        config: of its training.
        state: where the run starts from; lines of later steps are removed.
        tokens, flops: of one step.
        on: False on all processes but the first, where nothing is written.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        state: TrainState,
        *,
        tokens: int,
        flops: float,
        on: bool,
    ) -> None:
        self._config, self._tokens, self._flops = config, tokens, flops
        self._board = TensorBoardLog(folder, step=state.step, enabled=config.tensorboard and on)
        self._metrics = MetricsLog(folder / "metrics.jsonl", up_to=state.step) if on else None
        self._bar = TrainProgressBar(config, start=state.step, quiet=not on)

    @property
    def writer(self) -> Any:
        """TensorBoard's SummaryWriter, or None."""
        return self._board.writer

    def step(self) -> None:
        """One more step is done."""
        self._bar.step()

    def train(self, state: TrainState, loss: float, losses: Losses, gradient_norm: float) -> None:
        """The mean training losses since the last such line."""
        rate = self._rate(state)
        more = {"gradient_norm": gradient_norm, "tokens_per_second": round(rate, 1)}
        self._bar.losses(losses, rate)
        self._write("train", state, loss, losses, more)

    def validation(
        self, state: TrainState, loss: float, losses: Losses, noise_levels: dict[str, Any]
    ) -> None:
        """The losses of an evaluation."""
        self._bar.evaluated(state.step, losses, self._rate(state))
        more = {"noise_levels": noise_levels} if noise_levels else {}
        self._write("validation", state, loss, losses, more)

    def sync(self) -> None:
        """Wait until every line is on the disk."""
        if self._metrics is not None:
            self._metrics.sync()

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        if self._metrics is not None:
            self._metrics.close()

    def _rate(self, state: TrainState) -> float:
        """Tokens a second, over the whole run."""
        return state.step * self._tokens / max(state.seconds, 1e-9)

    def _write(
        self, phase: str, state: TrainState, loss: float, losses: Losses, more: dict[str, Any]
    ) -> None:
        line = {
            "phase": phase,
            "step": state.step,
            "tokens": state.step * self._tokens,
            "flops": state.step * self._flops,
            "seconds": round(state.seconds, 4),
            "learning_rate": learning_rate(state.step, self._config),
            "loss": loss,
            "losses": losses,
        } | more
        if self._metrics is not None:
            self._metrics.write(line)
            self._board.write(line)
