"""Starts a benchmark: `python -m benchmarks NAME [OPTION ...]`, from the repository's root."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

__all__ = ["BENCHMARKS", "main"]

#: Name -> module with a `main(arguments)`, and what it measures.
BENCHMARKS = {
    "cpu": ("benchmarks.cpu.run", "scan, convolution, block, training, decoding on the CPU"),
    "gpu": ("benchmarks.gpu.run", "kernels, projections, loss and training steps on a GPU"),
    "decode": ("benchmarks.decode", "decoding and prefill beside transformers, equal weights"),
    "images": ("benchmarks.images", "an image sampled after contexts of different lengths"),
    "busy": ("benchmarks.cpu.busy", "steps beside a process that keeps a core busy"),
    "compare": ("benchmarks.compare", "ratios of two results of a benchmark, old and new"),
    "resources": ("benchmarks.gpu.resources", "registers and loops of the Triton kernels; no GPU"),
    "build-peers": ("benchmarks.gpu.build_peers", "builds what gpu compares with: mamba-ssm"),
}


def main(arguments: list[str] | None = None) -> int:
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name in BENCHMARKS:
        if find_spec("mixture_of_mamba") is None:  # not installed: the one of this checkout
            sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
        return int(import_module(BENCHMARKS[name][0]).main(rest) or 0)
    lines = [
        "usage: python -m benchmarks NAME [OPTION ...]      (NAME --help lists its options)",
        *(f"  {name:12}{what}" for name, (_, what) in BENCHMARKS.items()),
    ]
    if name in ("-h", "--help"):
        print("\n".join(lines))
        return 0
    problem = f"there is no benchmark {name!r}" if name else "which benchmark?"
    print(f"{problem}\n" + "\n".join(lines), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
