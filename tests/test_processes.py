"""Signals unwind what was begun; children end with their parent, whatever ended it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mixture_of_mamba.cli.errors import report
from mixture_of_mamba.processes import ENDING, Stopped, unwinding


@pytest.mark.parametrize("number", ENDING)
def test_each_signal_unwinds_and_gives_back_its_handler(number: int) -> None:
    before, cleaned = signal.getsignal(number), []
    with pytest.raises(Stopped) as error, unwinding():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleaned.append(number)
    assert error.value.number == number and cleaned == [number]
    assert signal.getsignal(number) == before
    assert report(error.value, "mom train") == 130


def test_a_second_signal_does_not_disturb_the_cleaning() -> None:
    cleaned = []
    with pytest.raises(Stopped) as error, unwinding(), unwinding():
        try:
            os.kill(os.getpid(), signal.SIGINT)  # a terminal's Ctrl-C, and the parent's SIGTERM
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            cleaned.append(True)
    assert error.value.number == signal.SIGINT and cleaned


def test_what_is_ignored_or_handled_stays_so() -> None:
    heard: list[int] = []
    before = {n: signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with unwinding():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_threads_leave_signals_alone() -> None:
    def enter() -> None:
        with unwinding():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


CHILD = """
import sys, time
from mixture_of_mamba.processes import end_with_parent, unwinding
with unwinding():
    end_with_parent()
    print("ready", flush=True)
    time.sleep(120)
"""
PARENT = f"""
import subprocess, sys, time
from mixture_of_mamba.processes import adopting
with adopting():
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
print(child.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.skipif(os.name == "nt", reason="orphans have no parent there")
def test_a_child_ends_after_kill_nine_of_its_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < until, "the child outlives its parent"
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    """An orphan whom nobody waits for stays as a zombie where process 1 reaps none."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
