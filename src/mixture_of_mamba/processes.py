"""How processes of this package end: in good order at a signal, and children with their parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = [
    "ENDING",
    "Stopped",
    "adopting",
    "end_with_parent",
    "give_back_signals",
    "take_signals",
    "unwinding",
]

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals that ask a process to end: Ctrl-C, a scheduler's or `kill`'s, a closed terminal's."""

_PARENT = "MOM_PARENT"
_LOOK_SECONDS = 0.5


class Stopped(KeyboardInterrupt):
    """One of the ENDING signals arrived; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Unwinding:
    """Raises at the first signal; while that is unwound, only a further Ctrl-C raises again."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.raised or number == signal.SIGINT:
            self.raised = True
            raise Stopped(number)


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, each of the ENDING signals raises `Stopped`, so that half-made folders and child
    processes are cleaned up. One that is ignored (as under nohup) or that the program handles
    itself stays so. Outside the main thread, Python allows no handlers, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = take_signals(_Unwinding(), (signal.SIG_DFL, signal.default_int_handler))
    try:
        yield
    finally:
        give_back_signals(before)


def take_signals(handler: Any, instead_of: Sequence[Any] | None = None) -> dict[int, Any]:
    """Handle the ENDING signals that are not ignored.

    Args:
        instead_of: replace these handlers only.

    Returns:
        What `give_back_signals` takes.
    """
    found = {n: signal.getsignal(n) for n in ENDING}
    chosen = [
        number
        for number, present in found.items()
        if present != signal.SIG_IGN and (instead_of is None or present in instead_of)
    ]
    return {number: signal.signal(number, handler) for number in chosen}


def give_back_signals(before: dict[int, Any]) -> None:
    """Restore the handlers that `take_signals` replaced."""
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def adopting() -> Iterator[None]:
    """Inside, this process starts children that call `end_with_parent`."""
    os.environ[_PARENT] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_PARENT, None)


def end_with_parent(grace: float = 300.0) -> None:
    """In a process that was started inside `adopting`: SIGTERM as soon as that parent is gone,
    whatever ended it, and SIGKILL where this process is still there after `grace` seconds.

    A thread asks every half second whose child this process is: an orphan is given to another
    parent. (Windows gives it to none; there, children go on.)
    """
    parent = os.environ.pop(_PARENT, None)  # not for the children of this process
    if parent is None or os.name == "nt":
        return

    def look() -> None:
        while os.getppid() == int(parent):
            time.sleep(_LOOK_SECONDS)
        if grace:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=look, name="end with parent", daemon=True).start()
