"""Progress of a comparison's runs, read from their metrics.jsonl."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..training.progress_bar import clock

__all__ = ["ComparisonProgress", "progress_line"]

TAIL_BYTES = 1 << 15
"""Read from the end of metrics.jsonl; a line has some hundred."""


def progress_line(folder: Path, steps: int) -> str:
    """Step, share, training losses, tokens per second and time left of a run."""
    last = _last_train_line(folder / "metrics.jsonl")
    if last is None:
        return "starting"
    losses = " ".join(f"{k} {v:.3f}" for k, v in last["losses"].items() if v is not None)
    parts = [f"{last['step']:>5}/{steps}", f"{last['step'] / steps:4.0%}", losses]
    if last["seconds"] > 0:
        parts.append(f"{last['tokens'] / last['seconds']:,.0f} tokens/s")
        left = last["seconds"] / last["step"] * (steps - last["step"])
        parts.append(f"{clock(left)} left")
    return " · ".join(parts)


def _last_train_line(path: Path) -> dict[str, Any] | None:
    """From the end of the file alone: it is looked at twice a second, and may be long."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):  # what follows the last line break is not finished
        try:
            found = json.loads(line)
        except ValueError:  # the first piece may be half a line
            continue
        if isinstance(found, dict) and found.get("phase") == "train":
            return found
    return None


class ComparisonProgress:
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
    return shutil.get_terminal_size((120, 24)).columns - 1
