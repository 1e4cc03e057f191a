"""The results in a JSON file that is written before and after every part.

The file outlives the process: where a device error poisons one, or a part hangs, the next process
opens the file and goes on with what is not in it.
"""

from __future__ import annotations

import faulthandler
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import records

if TYPE_CHECKING:
    import torch

__all__ = ["BUDGET", "Poisoned", "Report"]

BUDGET = "not measured: budget"
GRACE = 20.0  # seconds that a part may run on when the budget is spent


class Poisoned(BaseException):
    """The device no longer answers this process; the rest has to run in another one."""


@dataclass
class Report:
    """One process's hold on the file.

    Args:
        path: the JSON file; it must exist.
        deadline: `time.time()` after which nothing is begun.
        dry: tiny sizes on the CPU, each call once: numbers mean nothing.
        state: "parts" (name -> numbers and table lines), "failed" and "left_out" (name -> why),
            "done" (sections), "running" (the part at work, or None).
    """

    path: Path
    deadline: float
    dry: bool
    device: torch.device
    state: dict[str, Any]
    section_end: float = float("inf")

    def __post_init__(self) -> None:
        self._numbers: dict[str, Any] = {}

    @property
    def found(self) -> dict[str, Any]:
        """Numbers by part, as they stand in the file."""
        parts: dict[str, Any] = self.state["parts"]
        return parts

    def left(self) -> float:
        return min(self.deadline, self.section_end) - time.time()

    def write(self) -> None:
        records.write(self.path, self.state)

    def line(self, text: str) -> None:
        """A line of the table that is printed last, under the part at work; also printed now."""
        self._numbers.setdefault("lines", []).append(text)
        print(f"[{self.left():4.0f} s left] {text}", flush=True)

    def fail(self, name: str, error: BaseException) -> None:
        self.state["failed"][name] = "".join(traceback.format_exception(error))[-2000:]
        first = (str(error).splitlines() or [""])[0]
        print(f"{name}: FAILED, {type(error).__name__}: {first[:150]}", flush=True)

    def leave_out(self, name: str, why: str) -> None:
        self.state["left_out"][name] = why
        print(f"{name}: {why}", flush=True)

    def part(
        self,
        name: str,
        body: Callable[[dict[str, Any]], None],
        *,
        needs: float = 10.0,
        limit: float = 120.0,
    ) -> dict[str, Any] | None:
        """Run one part of a section, unless the file has it; `body` fills the dict that it gets.

        A failure is recorded, with the numbers found before it, and does not spread. With less than
        `needs` seconds left the part is named as left out; one that takes longer than `limit`
        seconds ends the process.

        Returns:
            the part's numbers; None where it failed or was left out.

        Raises:
            Poisoned: the device does not answer any more.
        """
        if name in self.found or name in self.state["failed"]:
            return self._result(name)
        if self.left() < needs:
            self.leave_out(name, BUDGET)
            return None
        self._numbers = {}
        self.state["running"] = name
        self.write()
        with _watchdog(min(limit, self.deadline - time.time() + GRACE)):
            try:
                body(self._numbers)
            except Exception as error:
                self.fail(name, error)
            if self._numbers or name not in self.state["failed"]:
                self.found[name] = records.plain(self._numbers)
            self._settle(name)
        return self._result(name)

    def _result(self, name: str) -> dict[str, Any] | None:
        return None if name in self.state["failed"] else self.found[name]

    def _settle(self, name: str) -> None:
        """Free what the part held, and see whether the device still answers."""
        self.state["running"] = None
        self.write()
        gc.collect()
        if self.device.type != "cuda":
            return
        import torch  # not with the module: the process that starts the others needs none

        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:
            self.state["failed"].setdefault(name, f"the device failed: {error}"[:2000])
            self.write()
            raise Poisoned(name) from error


@contextmanager
def _watchdog(seconds: float) -> Iterator[None]:
    """End the process after that long, whatever it hangs in."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
