"""All CPU benchmarks: `python -m benchmarks cpu [--quick] [--out bench.json] [--doc FILE]`.

Run it on a quiet machine from the repository's root. Needs the package's `dev` extra (mamba.py,
transformers). A part that fails is named in the result and the rest goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixture_of_mamba import startup
from mixture_of_mamba.cli import allocator

from .. import records


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: a minute")
    parser.add_argument("--out", type=Path, default=Path("bench-cpu.json"), help="JSON to write")
    parser.add_argument("--doc", type=Path, help="document whose CPU table is replaced")
    parser.add_argument("--plot", type=Path, help="picture to write")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to run")
    arguments = parser.parse_args(argv)
    allocator.configure()

    from . import block, decoding, head, report, scan
    from .timing import Settings

    settings = Settings(quick=arguments.quick)
    found: dict[str, Any] = {"machine": machine(), "failed": {}}
    parts: dict[str, Callable[[], Any]] = {
        "scan": lambda: scan.scan(settings),
        "memory": lambda: scan.memory(settings),
        "convolution": lambda: scan.convolution(settings),
        "peak": lambda: block.peak_gflops(settings),
        "block": lambda: block.blocks(settings, found["peak"]["peak"]),
        "growth": lambda: block.growth(settings),
        "training": lambda: block.training_step(settings),
        "head": lambda: head.head(settings),
        "decode": lambda: decoding.decode(settings),
        "prefill": lambda: decoding.prefill(settings, found["peak"]["peak"]),
    }
    for name, part in parts.items():
        if arguments.only and name not in arguments.only:
            continue
        start = time.perf_counter()
        try:
            found[name] = part()
        except Exception as error:
            found["failed"][name] = repr(error)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        records.write(arguments.out, found)
    text = report.markdown(found)
    print(text)
    if arguments.doc:
        report.put_between(arguments.doc, text)
    if arguments.plot:
        report.plot(found, arguments.plot)
    return 1 if found["failed"] else 0


def machine() -> dict[str, Any]:
    """The machine, the compiled kernels and the settings of this process."""
    from mixture_of_mamba.ops import native

    return records.machine() | {
        "kernels": native.describe().rsplit("/", 1)[-1],
        "lanes": native.library().mom_vector_lanes(),
        "process": [*startup.SETTINGS, *allocator.SETTINGS],
    }
