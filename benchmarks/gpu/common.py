"""Timing, and the report that survives a failing section or a spent time budget."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["Report", "Timing", "machine", "peak_memory", "relative_error", "time_calls"]

PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d", "numpy")


@dataclass
class Timing:
    """Milliseconds of one call: median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float
    calls: int


@dataclass
class Report:
    """Everything that was found, written after every section.

    Args:
        path: the JSON file.
        budget: seconds for everything; what does not fit is named as left out.
        dry: tiny sizes on the CPU, each call once: numbers mean nothing.
    """

    path: Path
    budget: float
    dry: bool
    device: torch.device
    found: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        return self.budget - (time.monotonic() - self.started)

    def line(self, text: str) -> None:
        """A line of the table that is printed last; also printed now."""
        self.lines.append(text)
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", flush=True)

    def part(
        self, name: str, body: Callable[[dict[str, Any]], None], *, needs: float = 10.0
    ) -> None:
        """Run one part of a section; `body` puts its numbers into the dict that it gets. A failure
        is recorded and does not spread; with less than `needs` seconds left, the part is left out.
        """
        numbers: dict[str, Any] = {}
        if self.left() < needs:
            self.failed[name] = "left out, no time"
            return
        try:
            body(numbers)
        except Exception as error:
            if self.dry:
                raise
            self.failed[name] = "".join(traceback.format_exception(error))[-2000:]
            first = (str(error).splitlines() or [""])[0]
            self.line(f"{name}: FAILED, {type(error).__name__}: {first[:150]}")
        self.found[name] = numbers
        release()
        self.write()

    def write(self) -> None:
        plain = {**self.found, "failed": self.failed, "dry": self.dry}
        plain["seconds"] = time.monotonic() - self.started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(plain, indent=1, default=_plain))

    def close(self) -> None:
        """The table, and what is missing from it."""
        self.write()
        print("\n" + "=" * 100)
        for text in self.lines:
            print(text)
        for name, why in self.failed.items():
            print(f"missing: {name}: {why.strip().splitlines()[-1]}")


def _plain(value: Any) -> Any:
    return vars(value) if isinstance(value, Timing) else str(value)


def time_calls(call: Callable[[], object], report: Report, *, seconds: float = 0.3) -> Timing:
    """Median of repeated calls, with device events; enough calls to fill `seconds`, 5 to 200.

    Inputs of the sizes used here are several times the L2 cache, so calls do not warm it for each
    other.
    """
    if report.device.type != "cuda":
        start = time.perf_counter()
        call()
        took = (time.perf_counter() - start) * 1e3
        return Timing(took, took, took, 1)
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    once = max(time.perf_counter() - start, 1e-5)
    repeats = int(min(200, max(5, seconds / once)))
    events = [(_event(), _event()) for _ in range(repeats)]
    for before, after in events:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize()
    times = sorted(before.elapsed_time(after) for before, after in events)
    low, high = times[len(times) // 10], times[-1 - len(times) // 10]
    return Timing(statistics.median(times), low, high, repeats)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """GiB that a call takes beyond what is there before it."""
    if device.type != "cuda":
        call()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """||found - exact|| / ||exact||; NaN stays NaN."""
    exact = exact.double()
    return float((found.double() - exact).norm() / exact.norm().clamp(min=1e-300))


def machine(device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = {"python": sys.version.split()[0], "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
        }
        query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,mig.mode.current"
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
        )
        found["nvidia-smi"] = dict(zip(query.split(","), done.stdout.split(", "), strict=False))
    return found
