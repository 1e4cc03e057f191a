"""Says on standard error what the preparation is doing."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]


class Progress:
    """One line a stage with its seconds; silent where it is switched off."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._begun = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the seconds since the beginning."""
        if self._enabled:
            seconds = time.monotonic() - self._begun
            print(f"data {seconds:6.1f} s  {text}", file=sys.stderr, flush=True)
