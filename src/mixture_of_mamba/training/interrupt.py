"""Ctrl-C, SIGTERM and SIGHUP end a run after its current step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from ..processes import give_back_signals, take_signals

__all__ = ["Interrupt"]


class Interrupt:
    """While entered, `requested` turns True at the first SIGINT, SIGTERM or SIGHUP; a second SIGINT
    stops at once. Outside the main thread, where Python allows no handlers, it never does."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = take_signals(self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        give_back_signals(self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
