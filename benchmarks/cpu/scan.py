"""The scan and the convolution alone, against mamba.py's parallel scan and the plain formulas."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mixture_of_mamba.ops import causal_conv1d, selective_scan

from .timing import Settings, compare

__all__ = ["SIZES", "convolution", "memory", "scan"]

SIZES = ((8, 512, 256), (4, 1024, 512), (1, 4096, 768))  # batch, length, channels
STATES, TAPS = 16, 4


def inputs(b: int, t: int, d: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    leaves = {
        "u": torch.randn(b, t, d),
        "delta": F.softplus(torch.randn(b, t, d) - 3),
        "A": -torch.arange(1.0, STATES + 1).expand(d, STATES).contiguous(),
        "B": torch.randn(b, t, STATES),
        "C": torch.randn(b, t, STATES),
        "D": torch.ones(d),
    }
    return {name: x.requires_grad_() for name, x in leaves.items()}


def ours(backend: str) -> Callable[..., Tensor]:
    def call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return selective_scan(u, delta, A, B, C, D, backend=backend)[0]

    return call


def mambapy() -> Callable[..., Tensor]:
    """The body of mamba.py's MambaBlock.selective_scan around its parallel scan."""
    from mambapy.pscan import pscan

    def call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        decay = torch.exp(delta[..., None] * A)
        h = pscan(decay, delta[..., None] * B[:, :, None] * u[..., None])
        return (h @ C[..., None])[..., 0] + D * u

    return call


def channels_first(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The formula as state-spaces/mamba's reference and transformers' CPU path compute it: all
    decays and inputs (b, d, t, n) first, then a loop over slices of time."""
    u, delta = u.transpose(1, 2), delta.transpose(1, 2)
    decay = torch.exp(torch.einsum("bdt,dn->bdtn", delta, A))
    into = torch.einsum("bdt,btn,bdt->bdtn", delta, B, u)
    h = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    ys = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + into[:, :, t]
        ys.append(torch.einsum("bdn,bn->bd", h, C[:, t]))
    return (torch.stack(ys, 2) + u * D[:, None]).transpose(1, 2)


IMPLEMENTATIONS = {
    "cpu": lambda: ours("cpu"),
    "torch": lambda: ours("torch"),
    "mamba.py": mambapy,
    "formula, step by step": lambda: ours("reference"),
    "formula, channels first": lambda: channels_first,
}
# The gradient of a slice is as large as what it was cut from: quadratic in time, minutes at 4,096.
QUADRATIC = "formula, channels first"
LONGEST_QUADRATIC = 1024


def both(call: Callable[..., Tensor], leaves: dict[str, Tensor]) -> Callable[[], object]:
    """Forward and backward with a fixed cotangent."""
    dy = torch.randn_like(leaves["u"] if "u" in leaves else leaves["x"])
    return lambda: torch.autograd.grad(call(**leaves), list(leaves.values()), dy)


def forward(call: Callable[..., Tensor], leaves: dict[str, Tensor]) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return call(**leaves)

    return run


def scan(settings: Settings) -> list[dict[str, Any]]:
    found = []
    for size in SIZES[:1] if settings.quick else SIZES:
        leaves = inputs(*size)
        for what, wrap in (("forward", forward), ("forward+backward", both)):
            calls = {name: wrap(make(), leaves) for name, make in IMPLEMENTATIONS.items()}
            if wrap is both and size[1] > LONGEST_QUADRATIC:
                del calls[QUADRATIC]
            times = compare(calls, settings)
            found.append(
                {
                    "what": what,
                    "size": size,
                    "ms": {k: v.to_dict() for k, v in times.items()},
                    "times faster than": {
                        name: t.median / times["cpu"].median
                        for name, t in times.items()
                        if name != "cpu"
                    },
                }
            )
    return found


def convolution(settings: Settings) -> list[dict[str, Any]]:
    def torch_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (TAPS - 1, 0))
        y = F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0])
        return F.silu(y.transpose(1, 2))

    def native(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return causal_conv1d(x, weight, bias, backend="cpu")[0]

    found = []
    for size in SIZES[:1] if settings.quick else SIZES:
        d = size[2]
        leaves = {"x": torch.randn(size), "weight": torch.randn(d, TAPS), "bias": torch.randn(d)}
        leaves = {name: x.requires_grad_() for name, x in leaves.items()}
        for what, wrap in (("forward", forward), ("forward+backward", both)):
            calls = {"cpu": wrap(native, leaves), "F.conv1d": wrap(torch_conv, leaves)}
            times = compare(calls, settings)
            found.append(
                {
                    "what": what,
                    "size": size,
                    "ms": {k: v.to_dict() for k, v in times.items()},
                    "times faster than F.conv1d": times["F.conv1d"].median / times["cpu"].median,
                }
            )
    return found


def memory(settings: Settings) -> dict[str, Any]:
    """Peak memory that forward + backward add, each in a process of its own (Linux)."""
    size = SIZES[0] if settings.quick else SIZES[1]
    peaks = {}
    for name in ("cpu", "torch", "mamba.py"):
        command = [sys.executable, "-m", "benchmarks.cpu.scan", name, *map(str, size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = int(done.stdout.split()[-1]) / 2**20
    return {
        "size": size,
        "MiB": peaks,
        "mamba.py over ours": peaks["mamba.py"] / peaks["cpu"],
    }


def _peak(name: str, size: tuple[int, ...]) -> int:
    """Bytes by which the process's high-water mark rises."""
    leaves = inputs(*size)
    small = inputs(1, 32, 32)
    call = IMPLEMENTATIONS[name]()
    both(call, small)()  # libraries, threads, compiled kernels
    run = both(call, leaves)

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


if __name__ == "__main__":
    print(_peak(sys.argv[1], tuple(int(v) for v in sys.argv[2:])))
