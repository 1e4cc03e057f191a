"""Says on standard error what the preparation is doing."""

from __future__ import annotations

import sys
import time

__all__ = ["StageLog"]

SILENCE = 10.0
"""Seconds after which work that goes on says so."""


class StageLog:
    """One line a stage with its seconds; silent where it is switched off."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._begun = self._last = time.monotonic()

    def say(self, text: str) -> None:
        """A line with the seconds since the beginning."""
        self._last = time.monotonic()
        if self._enabled:
            print(f"data {self._last - self._begun:6.1f} s  {text}", file=sys.stderr, flush=True)

    def still(self, text: str) -> None:
        """The same, if nothing was said for SILENCE seconds; for calls from loops."""
        if time.monotonic() - self._last >= SILENCE:
            self.say(text)
