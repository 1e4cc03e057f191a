"""`mom bench`: run the repository's benchmarks on this machine."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

from .parser import Parser

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Time the kernels, the block and decoding on this machine, beside other implementations; "
    "JSON, and a table on standard output. Needs a checkout of the repository and its dev extra."
)
#: The checkout, where the package was installed from it with `pip install -e`.
ROOT = Path(__file__).parents[3]


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="by default cuda where there is one"
    )
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")


def run(args: Namespace) -> int:
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not (ROOT / "benchmarks").is_dir():
        raise FileNotFoundError(
            f"there is no folder benchmarks in {ROOT}; the benchmarks are part of the repository: "
            "clone it, pip install -e '.[dev]', and run mom bench there"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here; use --device cpu")
    return subprocess.run(
        command(device, Path(args.out), args.quick), cwd=ROOT, check=False
    ).returncode


def command(device: str, out: Path, quick: bool) -> list[str]:
    """What runs the benchmarks of a device."""
    out = out.resolve()
    if device == "cpu":
        extra = ["--quick"] if quick else []
        return [sys.executable, "-m", "benchmarks", "cpu", "--out", str(out), *extra]
    extra = ["--budget", "120"] if quick else []
    return [sys.executable, "-m", "benchmarks", "gpu", "--out", str(out), *extra]
