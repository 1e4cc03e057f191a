"""All GPU benchmarks in one call.

    python -m benchmarks gpu --out bench.json            ceilings to training steps
    python -m benchmarks gpu --out more.json --resume bench.json       what did not fit in there
    python -m benchmarks gpu --out tune.json --sections tuning
    python -m benchmarks gpu --dry-run                   tiny, on the CPU: does the script run?

Numbers go to the JSON file after every part, the table is printed last. A part that fails is
recorded and the rest goes on, in another process where the device has given up on the first; what
does not fit into --budget seconds is named. The exit status is 1 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .. import records
from .reporting import BUDGET
from .section import NO_DEVICE, OTHER_DEVICE, POISONED
from .targets import target_lines

ROOT = Path(__file__).parents[2]
SECTIONS = ("ceilings", "kernels", "projections", "head", "training", "tuning")
LATE = 30.0  # seconds after the budget at which a process is ended from outside
START = 15.0  # seconds that a new process takes before it measures anything


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file to write")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS[:-1]), metavar="NAME",
        help=f"which of {', '.join(SECTIONS)}; all but tuning by default",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument(
        "--resume", type=Path, help="an earlier JSON file of this device: what it has is kept"
    )
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, Triton's interpreter")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    started = time.time()
    deadline = started + arguments.budget
    records.write(arguments.out, first_state(arguments.resume))
    while True:
        state = records.read(arguments.out)
        remaining = [name for name in arguments.sections if name not in state["done"]]
        if remaining and deadline - time.time() < min(START, arguments.budget / 2):
            state["left_out"] |= {f"section {name}": BUDGET for name in remaining}
            remaining = []
        if not remaining:
            break
        code = run_sections(remaining, arguments, deadline)
        if code == NO_DEVICE:
            print("no CUDA device; --dry-run checks the script without one", file=sys.stderr)
            return 1
        if code == OTHER_DEVICE:
            print("--resume: that file is of another device, torch or triton", file=sys.stderr)
            return 1
        state = records.read(arguments.out)
        settle(state, code, remaining, late=time.time() >= deadline)
        records.write(arguments.out, state)
    state["seconds"], state["dry"] = time.time() - started, arguments.dry_run
    state["targets"] = target_lines(state)
    records.write(arguments.out, state)
    print_table(state)
    return 1 if state["failed"] else 0


def first_state(resume: Path | None) -> dict[str, Any]:
    """An empty report, or what an earlier one measured."""
    state: dict[str, Any] = {"parts": {}, "failed": {}, "left_out": {}, "done": [], "running": None}
    if resume is not None:
        earlier = records.read(resume)
        whole = {k: v for k, v in earlier["parts"].items() if k not in earlier["failed"]}
        state |= {"resumed": earlier.get("machine"), "parts": whole}
    return state


def run_sections(names: list[str], arguments: argparse.Namespace, deadline: float) -> int:
    """A process that runs the sections; its exit status, or that of having been ended late."""
    command = [
        *(sys.executable, "-m", "benchmarks.gpu.section", *names),
        *("--out", str(arguments.out), "--deadline", str(deadline)),
    ]
    path = [str(records.SOURCES), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    if arguments.dry_run:
        command.append("--dry-run")
        environment["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(max(1.0, deadline + LATE - time.time()))
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        # Also the workers of a process that ended without them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def settle(state: dict[str, Any], code: int, remaining: list[str], *, late: bool) -> None:
    """Name what a process was at when it ended, so that the next one passes over it."""
    part, state["running"] = state["running"], None
    if part is not None and late:
        state["left_out"][part] = "not finished: budget"
    elif part is not None:
        state["failed"][part] = f"its process ended with status {code}: it hung, or crashed"
    elif code not in (0, POISONED) and not late:
        first = next((name for name in remaining if name not in state["done"]), remaining[-1])
        state["failed"][f"section {first}"] = f"its process ended with status {code}"
        state["done"].append(first)


def print_table(state: dict[str, Any]) -> None:
    print("\n" + "=" * 100)
    print(", ".join(f"{k} {v}" for k, v in state.get("machine", {}).items() if v not in (None, {})))
    for numbers in state["parts"].values():
        for text in numbers.get("lines", []):
            print(text)
    for name, why in {**state["failed"], **state["left_out"]}.items():
        print(f"missing: {name}: {why.strip().splitlines()[-1]}")
    for text in state["targets"]:
        print(text)
