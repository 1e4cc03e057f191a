"""What the Triton kernels cost, compiled for a GPU that need not be there.

    python -m benchmarks resources [--arch 90 80] [--dtype bfloat16] [--json]

Every kernel is compiled through the backends' own launch code, with the arguments (and so the
specialisation) of a real call; only the launch itself is left out. From the binary: registers and
stack. From its disassembly: the instructions of each innermost loop, by name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from mixture_of_mamba.ops.causal_conv1d import ConvInputs
from mixture_of_mamba.ops.causal_conv1d import triton as conv
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import ScanInputs
from mixture_of_mamba.ops.selective_scan import triton as scan

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
BRANCH = re.compile(r"BRA[^`]*`\((\.L_x_\d+)\)")
LABEL = re.compile(r"^(\.L_x_\d+):")


@dataclass
class Resources:
    """One compiled kernel."""

    kernel: str
    registers: int
    stack_bytes: int  # of a thread: what did not fit into registers
    shared_bytes: int
    loops: list[dict[str, int]] = field(
        default_factory=list
    )  # innermost ones: instruction -> count

    def in_loops(self, *names: str) -> int:
        """How often the named instructions stand in innermost loops."""
        return sum(loop.get(name, 0) for loop in self.loops for name in names)


class _Absent:
    """A driver for a GPU that is not there: it knows what to compile for, and launches nothing."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling_only(arch: int) -> Iterator[list[Any]]:
    """Launches inside compile for sm_`arch` and are collected instead of run."""
    found: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append(kernel)
        return kernel

    driver.set_active(_Absent(arch))
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = run
        # There is no GPU to go back to; the next use of the driver looks for one again.
        driver._active = None


def scan_call(
    dtype: torch.dtype = torch.bfloat16,
    *,
    batch: int = 2,
    length: int = 64,
    d: int = 128,
    n: int = 16,
    states: bool = True,
) -> None:
    """A forward and a backward with everything present, without running them.

    Args:
        states: with an initial state, and a gradient of the final one.
    """
    rows, flags = batch * length, (batch, length)

    def empty(*shape: int, kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=kind)

    # z and B, C are slices of wider rows, as they are in a block.
    wide, maps = empty(rows, 2 * d, kind=dtype), empty(rows, d // 16 + 2 * n, kind=dtype)
    u, z, B, C = wide[:, :d], wide[:, d:], maps[:, -2 * n : -n], maps[:, -n:]
    integers, marks = empty(*flags, kind=torch.int32), empty(*flags, kind=torch.bool)
    inputs = ScanInputs(
        u, u, empty(d, n), B, C, empty(d), z, empty(2, d), empty(batch, d, n) if states else None,
        RowIndex(integers, integers, marks, batch, length), True,
    )  # fmt: skip
    scan.forward(inputs, True)
    saved = empty(*scan.checkpoint_shape(inputs))
    dfinal = empty(batch, d, n) if states else None
    scan.backward(inputs, saved, empty(rows, d, kind=dtype), dfinal)


def conv_call(dtype: torch.dtype = torch.bfloat16, *, d: int = 256, states: bool = True) -> None:
    batch, length = 2, 128
    x = torch.empty(batch * length, 2 * d, dtype=dtype)[:, :d]
    integers = torch.empty(batch, length, dtype=torch.int32)
    marks = torch.empty(batch, length, dtype=torch.bool)
    state = torch.empty(batch, 3, d, dtype=dtype) if states else None
    weight, bias = torch.empty(d, 4), torch.empty(d)
    index = RowIndex(integers, integers, marks, batch, length)
    inputs = ConvInputs(x, weight, bias, state, index, True)
    conv.forward(inputs)
    conv.backward(inputs, torch.empty(batch * length, d, dtype=dtype), state)


def measure(arch: int, *calls: Callable[[], None]) -> list[Resources]:
    """Resources of each kernel that the calls launch, one entry a kernel."""
    with compiling_only(arch) as kernels:
        for call in calls:
            call()
    unique = {kernel.hash: kernel for kernel in kernels}
    return [_read(kernel) for kernel in unique.values()]


def _read(kernel: Any) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        usage, sass = _tool("cuobjdump", "-res-usage", cubin), _tool("nvdisasm", "-c", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"cuobjdump said something new: {usage}"
    name, shared = kernel.metadata.name, kernel.metadata.shared
    return Resources(name, int(found[1]), int(found[2]), shared, _loops(sass))


def _tool(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [TOOLS / name, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout


def _loops(sass: str) -> list[dict[str, int]]:
    """Instruction counts of the innermost loops: a label, and a branch back to it."""
    lines = sass.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := LABEL.match(line.strip()))}
    spans = []
    for i, line in enumerate(lines):
        found = BRANCH.search(line)
        if found and (start := labels.get(found[1], i)) < i - 4:  # shorter ones: the idle tail
            spans.append((start, i))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    counts = []
    for start, end in inner:
        names = [m[1] for line in lines[start : end + 1] if (m := INSTRUCTION.match(line))]
        counts.append(dict(Counter(names).most_common()))
    return counts


def main(argv: list[str] | None = None) -> None:
    os.environ.pop("TRITON_INTERPRET", None)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks resources",
        description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    )
    help_ = "compute capability times ten; several may be given"
    parser.add_argument("--arch", type=int, nargs="+", default=[90], help=help_)
    names = ("bfloat16", "float16", "float32")
    parser.add_argument("--dtype", choices=names, default=names[0], help="of the rows")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    dtype = getattr(torch, arguments.dtype)
    calls = (
        lambda: scan_call(dtype),
        lambda: scan_call(dtype, length=1024, d=64),  # so small that time is cut into segments
        lambda: conv_call(dtype),
    )
    tables = {arch: measure(arch, *calls) for arch in arguments.arch}
    if arguments.json:
        plain = {arch: [asdict(r) for r in found] for arch, found in tables.items()}
        print(json.dumps({"triton": triton.__version__, "kernels": plain}))
        return
    for arch, found in tables.items():
        print(f"Triton {triton.__version__}, sm_{arch}, {arguments.dtype}")
        for r in found:
            print(line(r))


def line(r: Resources) -> str:
    sizes = " + ".join(str(sum(loop.values())) for loop in r.loops) or "none"
    return (
        f"{r.kernel:26} {r.registers:4} registers, {r.stack_bytes:4} stack, "
        f"{r.shared_bytes:5} shared; in loops {r.in_loops('SHFL'):3} shuffles, "
        f"{r.in_loops('LDL', 'STL'):3} spills, instructions {sizes}"
    )
