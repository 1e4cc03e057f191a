"""Progress of a training on stderr: a bar on a terminal, elsewhere a line per evaluation."""

from __future__ import annotations

import sys
import time
from typing import Any

from .train_config import TrainConfig

__all__ = ["TrainProgressBar", "clock"]


class TrainProgressBar:
    """Step, loss by modality, tokens a second and the time that is left.

    Args:
        config: its `progress` field turns the bar on or off; None: on where stderr is a terminal.
        start: step that the run starts from.
        quiet: show nothing (all processes but the first).
    """

    def __init__(self, config: TrainConfig, *, start: int, quiet: bool = False) -> None:
        self.steps = config.steps
        self.quiet = quiet
        self.began, self.start = time.perf_counter(), start
        self.bar: Any = None
        shown = sys.stderr.isatty() if config.progress is None else config.progress
        if shown and not quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=config.steps, initial=start, unit="step", dynamic_ncols=True)

    def step(self) -> None:
        """One more step is done."""
        if self.bar is not None:
            self.bar.update()

    def losses(self, losses: dict[str, float | None], rate: float) -> None:
        """Show the latest training losses and tokens a second."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"{_text(losses)}  {_rate(rate)}", refresh=False)

    def evaluated(self, step: int, losses: dict[str, float | None], rate: float) -> None:
        """Show validation losses."""
        if self.quiet:
            return
        text = f"step {step}/{self.steps}  validation {_text(losses)}"
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
            return
        left = (time.perf_counter() - self.began) / max(1, step - self.start) * (self.steps - step)
        print(f"{text}  {_rate(rate)}  {clock(left)} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _text(losses: dict[str, float | None]) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None)


def _rate(tokens_per_second: float) -> str:
    if tokens_per_second >= 1000:
        return f"{tokens_per_second / 1000:.1f}k tokens/s"
    return f"{tokens_per_second:.0f} tokens/s"


def clock(seconds: float) -> str:
    """83 -> "1:23", 3723 -> "1:02:03"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
