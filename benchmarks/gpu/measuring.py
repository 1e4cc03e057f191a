"""Times, memory and errors of a call on the device, and the machine."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import records
from .reporting import Report

__all__ = ["Timing", "machine", "peak_memory", "relative_error", "time_calls"]

PACKAGES = ("triton", "numpy", "safetensors", "mamba-ssm", "causal-conv1d")


@dataclass
class Timing:
    """Milliseconds of one call: median, and the 10th and 90th percentile."""

    median: float
    low: float
    high: float
    calls: int


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
    """The machine with its GPU, driver and clocks."""
    found = records.machine(*PACKAGES)
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
