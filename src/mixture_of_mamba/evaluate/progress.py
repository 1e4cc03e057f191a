"""Lines that tell how far a run is, read from its metrics.jsonl."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..train.metrics import read_metrics

__all__ = ["Board", "clock", "progress_line"]


def clock(seconds: float) -> str:
    """83 -> "1:23", 3723 -> "1:02:03"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def progress_line(folder: Path, steps: int) -> str:
    """Step, share, training losses, tokens per second and time left of a run."""
    lines = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    train = [line for line in lines if line["phase"] == "train"]
    if not train:
        return "starting"
    last: dict[str, Any] = train[-1]
    losses = " ".join(f"{k} {v:.3f}" for k, v in last["losses"].items() if v is not None)
    parts = [f"{last['step']:>5}/{steps}", f"{last['step'] / steps:4.0%}", losses]
    if last["seconds"] > 0:
        parts.append(f"{last['tokens'] / last['seconds'] / 1000:.1f}k tokens/s")
        left = last["seconds"] / last["step"] * (steps - last["step"])
        parts.append(f"{clock(left)} left")
    return " · ".join(parts)


class Board:
    """One line per run: redrawn in place on a terminal, printed every `every` seconds elsewhere."""

    def __init__(self, *, every: float = 20.0, stream: TextIO | None = None) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.every = every
        self._live = self.stream.isatty()
        self._drawn = 0
        self._printed: dict[str, tuple[float, str]] = {}

    def show(self, runs: Sequence[tuple[str, str]]) -> None:
        """Show (name, line) of the running ones."""
        width = max((len(name) for name, _ in runs), default=0)
        if self._live:
            self._erase()
            for name, line in runs:
                self.stream.write(f"{name:<{width}}  {line}"[: _columns()] + "\n")
            self._drawn = len(runs)
        else:
            now = time.monotonic()
            for name, line in runs:
                when, before = self._printed.get(name, (now, "starting"))
                if name not in self._printed:
                    self._printed[name] = (now, line)
                elif now - when >= self.every and line != before:
                    self.stream.write(f"{name:<{width}}  {line}\n")
                    self._printed[name] = (now, line)
        self.stream.flush()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._erase()
        self.stream.write(text + "\n")
        self.stream.flush()

    def _erase(self) -> None:
        if self._drawn:
            self.stream.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size((120, 24)).columns - 1
