"""The sections of `run.py` in a process of their own, which a device error may end.

    python -m benchmarks.gpu.section NAME ... --out bench.json --deadline UNIX_TIME [--dry-run]

Ends with POISONED where the rest needs another process, with NO_DEVICE where there is no GPU, and
with OTHER_DEVICE where the resumed file is of another one.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

__all__ = ["NO_DEVICE", "OTHER_DEVICE", "POISONED"]

NO_DEVICE, OTHER_DEVICE, POISONED = 69, 65, 75
# Seconds at most, so that the sections after it are measured too.
SHARES = {"ceilings": 40.0, "kernels": 160.0, "projections": 60.0, "head": 25.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--deadline", type=float, required=True)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()

    import torch

    from .. import records
    from .measuring import machine
    from .reporting import Poisoned, Report

    if not arguments.dry_run and not torch.cuda.is_available():
        return NO_DEVICE
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    state = records.read(arguments.out)
    report = Report(arguments.out, arguments.deadline, arguments.dry_run, device, state)
    if "machine" not in state:
        state["machine"] = here = machine(device)
        before = state.get("resumed") or here
        if any(before.get(name) != here.get(name) for name in ("device", "torch", "triton")):
            return OTHER_DEVICE
        report.write()
    torch.manual_seed(0)
    for name in arguments.sections:
        try:
            run_section(report, name)
        except Poisoned as error:
            print(f"the device failed in {error}; the rest runs in another process", flush=True)
            return POISONED
    return 0


def run_section(report, name: str) -> None:  # type: ignore[no-untyped-def]
    """A section is made of parts that fail on their own; this catches what is between them."""
    import time

    report.section_end = time.time() + SHARES.get(name, float("inf"))
    try:
        importlib.import_module(name if "." in name else f"{__package__}.{name}").run(report)
    except Exception as error:
        report.fail(f"section {name}", error)
    report.state["done"].append(name)
    report.write()


if __name__ == "__main__":
    sys.exit(main())
