"""Launch shapes of the scan and the convolution, tried one after another; the best are printed.

Compiling takes longer than running, so all shapes are first compiled by as many processes as there
are cores, into Triton's cache; then they run. What wins belongs into FORWARD, BACKWARD, EVERY of
ops/selective_scan/triton.py and FORWARD, BACKWARD, CHUNK of ops/causal_conv1d/triton.py.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from mixture_of_mamba.ops.causal_conv1d import triton as conv
from mixture_of_mamba.ops.selective_scan import triton as scan
from mixture_of_mamba.ops.triton_support import LaunchConfig

from . import kernels
from .measuring import Timing, time_calls
from .reporting import Report

__all__ = ["run"]

BLOCKS = ((32, 1), (64, 2), (128, 4))
SCAN_FORWARD = [(block, warps, steps) for block, warps in BLOCKS for steps in (4, 8, 16)]
# Half a warp of channels: two lanes share a channel's states, and shuffle three times a step.
SCAN_BACKWARD = [*((b, w, s) for b, w in BLOCKS for s in (2, 4, 8)), (16, 1, 4), (16, 1, 8)]
SCAN_EVERY = (32, 64, 128)
CONV = [(block, warps, 8) for block in (128, 256, 512) for warps in (1, 2, 4)]
CONV_CHUNK = (32, 64, 128, 256)


def run(report: Report) -> None:
    if report.device.type == "cuda":
        report.part(
            "tuning: compile", lambda found: compile_all(report, found), needs=120, limit=400
        )
    report.part("tuning: scan forward", lambda f: scan_forward(report, f), needs=30)
    report.part("tuning: scan backward", lambda f: scan_backward(report, f), needs=30)
    report.part("tuning: scan checkpoints", lambda f: scan_every(report, f), needs=30)
    report.part("tuning: conv", lambda f: conv_all(report, f), needs=30)


@contextmanager
def setting(module: Any, name: str, value: Any) -> Any:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def compile_one(job: tuple[str, str, tuple[int, int, int], int]) -> None:
    """In a process of its own: one launch shape into Triton's cache, without a launch."""
    from . import resources

    op, name, tiles, arch = job
    module = {"scan": scan, "conv": conv}[op]
    with setting(module, name, LaunchConfig(*tiles)):
        resources.measure(arch, _conv if op == "conv" else _large_scan)


# The sweep's calls: no states, and too large to be cut into segments. Another call would leave
# another kernel in the cache.
def _large_scan() -> None:
    from . import resources

    resources.scan_call(batch=2, length=256, d=512, states=False)


def _conv() -> None:
    from . import resources

    resources.conv_call(d=512, states=False)


def compile_all(report: Report, found: dict[str, Any]) -> None:
    major, minor = torch.cuda.get_device_capability()
    arch = 10 * major + minor
    jobs = [("scan", "FORWARD", t, arch) for t in SCAN_FORWARD]
    jobs += [("scan", "BACKWARD", t, arch) for t in SCAN_BACKWARD]
    jobs += [("conv", name, t, arch) for t in CONV for name in ("FORWARD", "BACKWARD")]
    workers = min(len(jobs), os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        failures = [
            str(e)
            for e in (f.exception() for f in [pool.submit(compile_one, j) for j in jobs])
            if e
        ]
    found["jobs"], found["failures"] = len(jobs), failures
    report.line(f"tuning: compiled {len(jobs) - len(failures)} of {len(jobs)} launch shapes")


def sweep(
    report: Report,
    found: dict[str, Any],
    title: str,
    shapes: list[Any],
    call: Callable[[Any], Timing],
) -> Any:
    """Time each shape; the quickest one. A shape that fails is recorded and passed over."""
    times: dict[Any, float] = {}
    for shape in shapes[:1] if report.dry else shapes:
        if report.left() < 10:
            found["left out"] = str(shape)
            break
        try:
            timing = call(shape)
        except Exception as error:
            if report.dry:
                raise
            torch.cuda.synchronize()  # raises where no other shape can run either
            found[str(shape)] = f"{type(error).__name__}: {error}"[:300]
            continue
        found[str(shape)] = timing
        times[shape] = timing.median
    if not times:
        raise RuntimeError(f"no shape of {title} ran")
    order = sorted(times, key=times.__getitem__)
    best = ", ".join(f"{shape} {times[shape]:.3f} ms" for shape in order[:3])
    report.line(f"tuning: {title}: {best}; slowest {times[order[-1]]:.3f} ms")
    return order[0]


def _scan_problem(report: Report) -> Any:
    b, t, d = (1, 16, 32) if report.dry else (8, 4096, 4096)
    dtype = torch.float32 if report.dry else torch.bfloat16
    return kernels.scan_inputs(b, t, d, dtype, report.device)


def scan_forward(report: Report, found: dict[str, Any]) -> None:
    inputs = _scan_problem(report)

    def call(tiles: tuple[int, int, int]) -> Timing:
        with setting(scan, "FORWARD", LaunchConfig(*tiles)):
            return time_calls(lambda: scan.forward(inputs, True), report, seconds=0.05)

    sweep(report, found, "scan forward (block, warps, steps)", SCAN_FORWARD, call)


def scan_backward(report: Report, found: dict[str, Any]) -> None:
    inputs = _scan_problem(report)
    saved, dy = scan.forward(inputs, True)[2], torch.randn_like(inputs.u)

    def call(tiles: tuple[int, int, int]) -> Timing:
        with setting(scan, "BACKWARD", LaunchConfig(*tiles)):
            return time_calls(lambda: scan.backward(inputs, saved, dy, None), report, seconds=0.05)

    sweep(report, found, "scan backward (block, warps, steps)", SCAN_BACKWARD, call)


def scan_every(report: Report, found: dict[str, Any]) -> None:
    inputs = _scan_problem(report)
    dy = torch.randn_like(inputs.u)

    def both(every: int) -> Timing:
        with setting(scan, "EVERY", every):

            def step() -> None:
                saved = scan.forward(inputs, True)[2]
                scan.backward(inputs, saved, dy, None)

            return time_calls(step, report, seconds=0.05)

    sweep(report, found, "scan, steps a checkpoint, both ways", list(SCAN_EVERY), both)


def conv_all(report: Report, found: dict[str, Any]) -> None:
    b, t, d = (1, 16, 32) if report.dry else (8, 4096, 4096)
    dtype = torch.float32 if report.dry else torch.bfloat16
    inputs = kernels.conv_inputs(b, t, d, dtype, report.device)
    dy = torch.randn_like(inputs.x)

    def forward(tiles: tuple[int, int, int]) -> Timing:
        with setting(conv, "FORWARD", LaunchConfig(*tiles)):
            return time_calls(lambda: conv.forward(inputs), report, seconds=0.05)

    def backward(tiles: tuple[int, int, int]) -> Timing:
        with setting(conv, "BACKWARD", LaunchConfig(*tiles)):
            return time_calls(lambda: conv.backward(inputs, dy, None), report, seconds=0.05)

    def chunk(steps: int) -> Timing:
        with setting(conv, "CHUNK", steps):
            return time_calls(
                lambda: (conv.forward(inputs), conv.backward(inputs, dy, None)),
                report,
                seconds=0.05,
            )

    parts = {"forward": forward, "backward": backward}
    for name, call in parts.items():
        found[name] = {}
        sweep(report, found[name], f"conv {name} (block, warps, steps)", list(CONV), call)
    found["chunk"] = {}
    sweep(report, found["chunk"], "conv, steps a chunk, both ways", list(CONV_CHUNK), chunk)
