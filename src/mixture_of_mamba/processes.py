"""How processes end: signals raise an exception that cleans up, children end with their parent."""

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

#: Signals that ask a process to end: Ctrl-C, `kill` or a scheduler, a closed terminal.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

#: Environment variable that names the parent of a child process.
_PARENT = "MOM_PARENT"
#: Seconds between two looks at whether the parent is still there.
_POLL_SECONDS = 0.5


class Stopped(KeyboardInterrupt):
    """One of the ENDING signals arrived; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Unwinding:
    """Raises at the first signal; during the cleanup after it, only Ctrl-C raises again."""

    def __init__(self) -> None:
        self.raised = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.raised or number == signal.SIGINT:
            self.raised = True
            raise Stopped(number)


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside, each of the ENDING signals raises `Stopped`, so that unfinished folders and child
    processes are cleaned up. Signals that are ignored (as under nohup) or that the program handles
    itself are left alone. Outside the main thread, where Python allows no handlers, this does
    nothing.
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
        The replaced handlers, for `give_back_signals`.
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
    """In a process that was started inside `adopting`: SIGTERM as soon as that parent has ended,
    however it ended, and SIGKILL if this process still runs after `grace` seconds.

    A thread compares the parent's process id every half second: the system gives an orphan another
    parent. (Windows does not; there, children continue.)
    """
    parent = os.environ.pop(_PARENT, None)  # not for the children of this process
    if parent is None or os.name == "nt":
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_POLL_SECONDS)
        if grace:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
