"""Everything that is to be known about the GPU kernels, in one call.

    python benchmarks/gpu/run.py --out bench.json            ceilings to training steps, ~9 minutes
    python benchmarks/gpu/run.py --out tune.json --sections tuning
    python benchmarks/gpu/run.py --dry-run                   tiny, on the CPU: does the script run?

Numbers go to the JSON file after every part, the table is printed last. A part that fails is
recorded and the rest goes on; what does not fit into --budget seconds is named as missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

SECTIONS = ("ceilings", "kernels", "projections", "head", "training", "tuning")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file to write")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS[:-1]), metavar="NAME",
        help=f"which of {', '.join(SECTIONS)}; all but tuning by default",
    )  # fmt: skip
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, Triton's interpreter")
    return parser.parse_args()


def main() -> int:
    arguments = parse()
    if arguments.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is first imported
    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

    import importlib

    import peers
    import torch
    from common import Report, machine

    if not arguments.dry_run and not torch.cuda.is_available():
        print("no CUDA device; --dry-run checks the script without one", file=sys.stderr)
        return 1
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    report = Report(arguments.out, arguments.budget, arguments.dry_run, device)
    report.found["machine"] = found = {**machine(device), **peers.available()}
    report.line(", ".join(f"{k} {v}" for k, v in found.items() if v not in (None, {})))
    torch.manual_seed(0)
    for name in arguments.sections:
        module = importlib.import_module(name)
        # A section is made of parts that fail on their own; this catches what is between them.
        try:
            module.run(report)
        except Exception as error:
            if arguments.dry_run:
                raise
            report.failed[name] = repr(error)
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
