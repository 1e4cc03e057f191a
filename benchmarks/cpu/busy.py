"""Beside a busy neighbour, and alone: `python -m benchmarks busy [--against SOURCES]`.

Processes with different settings take turns, in rounds, once alone and once beside a process that
keeps one core busy: one thread; what the library takes by itself; and the settings of torch and
OpenMP, as where torch is imported first. SOURCES is the `src` folder of another checkout (an older
commit in a git worktree): its library, as it sets itself up, takes turns as well.

Wanted: beside a neighbour never more than 1.5 times the time of one thread, and alone not more than
3 % slower than SOURCES. Ratios are medians over rounds. Run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import records

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"),
    "GLIBC_TUNABLES",
)
LIMIT_BUSY, LIMIT_ALONE = 1.5, 1.03


class Worker:
    """A process that runs a case a few times when it is told to, and says how long a call took."""

    def __init__(self, sources: Path, environment: dict[str, str], *flags: str) -> None:
        clean = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        path = os.pathsep.join([str(sources), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cpu.busy_worker", *flags],
            env=clean | environment | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.threads = int(self._line())

    def time(self, case: str, seconds: float) -> float:
        """Milliseconds of a call, the median of those that fit into the time."""
        assert self._process.stdin is not None
        print(case, seconds, file=self._process.stdin, flush=True)
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise RuntimeError("a worker ended; its error stands above")
        return line


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that compute all the time."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(workers: dict[str, Worker], rounds: int, seconds: float) -> dict[str, Any]:
    """Milliseconds by case and setting, and ratios to one thread, medians over rounds."""
    from .busy_worker import CASES

    times = {case: {name: [] for name in workers} for case in CASES}  # type: ignore[var-annotated]
    for _ in range(rounds):
        for case in CASES:
            for name, worker in workers.items():
                times[case][name].append(worker.time(case, seconds))
    found: dict[str, Any] = {}
    for case, by_name in times.items():
        found[case] = {
            name: {
                "ms": statistics.median(values),
                **{
                    f"over {base}": statistics.median(
                        a / b for a, b in zip(values, by_name[base], strict=True)
                    )
                    for base in ("one thread", "against")
                    if base in by_name and base != name
                },
            }
            for name, values in by_name.items()
        }
    return found


def table(found: dict[str, Any]) -> str:
    """One line a case and setting."""
    lines = [
        "| | case | setting | ms | over one thread | over against |",
        "|---|---|---|---:|---:|---:|",
    ]
    for when in ("busy", "alone"):
        for case, by_name in found[when].items():
            for name, row in by_name.items():
                ratios = [row.get(f"over {base}") for base in ("one thread", "against")]
                shown = " | ".join("" if r is None else f"{r:.2f}" for r in ratios)
                lines.append(f"| {when} | {case} | {name} | {row['ms']:.3g} | {shown} |")
    return "\n".join(lines)


def missed(found: dict[str, Any]) -> list[str]:
    """What is above its limit."""
    problems = []
    for case, by_name in found["busy"].items():
        if (ratio := by_name["library"]["over one thread"]) > LIMIT_BUSY:
            problems.append(f"busy, {case}: {ratio:.2f} times one thread; {LIMIT_BUSY} is wanted")
    for case, by_name in found["alone"].items():
        if (ratio := by_name["library"].get("over against", 0.0)) > LIMIT_ALONE:
            problems.append(f"alone, {case}: {ratio:.2f} of the old time; {LIMIT_ALONE} is wanted")
    return problems


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks busy", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="SOURCES", help="src of another checkout")
    parser.add_argument("--neighbours", type=int, default=1, help="busy processes")
    parser.add_argument("--spins", nargs="+", default=[], help="other waiting policies to time")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument(
        "--check", action="store_true", help="end with 1 where a time is above what is wanted"
    )
    arguments = parser.parse_args(argv)
    sources = records.SOURCES
    workers = {
        "one thread": Worker(sources, {"OMP_NUM_THREADS": "1"}),
        "library": Worker(sources, {}),
        "torch first": Worker(sources, {}, "--torch-first"),
    }
    for count in arguments.spins:
        workers[f"GOMP_SPINCOUNT={count}"] = Worker(sources, {"GOMP_SPINCOUNT": count})
    if arguments.against:
        workers["against"] = Worker(arguments.against.resolve(), {})
    try:
        time.sleep(1)
        found: dict[str, Any] = {"threads": {name: w.threads for name, w in workers.items()}}
        found["alone"] = measure(workers, arguments.rounds, arguments.seconds)
        with neighbours(arguments.neighbours):
            found["busy"] = measure(workers, arguments.rounds, arguments.seconds)
    finally:
        for worker in workers.values():
            worker.close()
    print(table(found))
    for line in (problems := missed(found)):
        print(line, file=sys.stderr)
    if arguments.out:
        records.write(arguments.out, found | {"machine": records.machine(), "missed": problems})
    return 1 if arguments.check and problems else 0
