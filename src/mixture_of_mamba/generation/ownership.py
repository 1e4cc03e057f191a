"""Checks that threads do not mix the sequences of one decoder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakSet

__all__ = ["Owned", "continues", "starts"]

Method = TypeVar("Method", bound=Callable[..., Any])


class Owned:
    """An object whose methods either start new sequences or continue those that were started.

    Sequences may be handed from thread to thread (as servers do that take the next event in any of
    their workers), but calls do not overlap, and a thread whose sequences another thread has
    replaced is told so.
    """

    def __init__(self) -> None:
        self._running = threading.Lock()
        self._threads: WeakSet[threading.Thread] = WeakSet()
        self._replaced: WeakSet[threading.Thread] = WeakSet()

    def _enter(self, new: bool) -> None:
        me = threading.current_thread()
        if not self._running.acquire(blocking=False):
            raise RuntimeError(
                f"this {type(self).__name__} is at work in another thread; it holds one batch of "
                "sequences, so make a decoder for each thread (decoder_maker's share the weights)"
            )
        if new:
            self._replaced |= self._threads
            self._replaced.discard(me)
            self._threads.clear()
        elif me in self._replaced:
            self._running.release()
            raise RuntimeError(
                f"another thread has started new sequences in this {type(self).__name__}, and "
                "those of this thread are gone; make a decoder for each thread, or start again"
            )
        self._threads.add(me)


def _guarded(method: Method, new: bool) -> Method:
    @wraps(method)
    def guarded(self: Owned, *args: Any, **kwargs: Any) -> Any:
        self._enter(new)
        try:
            return method(self, *args, **kwargs)
        finally:
            self._running.release()

    return cast(Method, guarded)


def starts(method: Method) -> Method:
    """A method that begins with other sequences."""
    return _guarded(method, True)


def continues(method: Method) -> Method:
    """A method that goes on with those that there are."""
    return _guarded(method, False)
