"""Mixture projections against the dense product: grouped, looped, and what the rule picks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mixture_of_mamba.ops.modality_linear import LinearInputs, grouped, loop

from .measuring import Timing, relative_error, time_calls
from .reporting import Report

__all__ = ["run"]

# shares of the rows by modality
MIXES = {
    "balanced": (0.5, 0.5),
    "skewed": (0.9, 0.1),
    "tiny": (0.999, 0.001),
    "empty": (1.0, 0.0),
    "three": (0.5, 0.3, 0.2),
}


def run(report: Report) -> None:
    for width in (32,) if report.dry else (768, 1536, 2048):
        inner, rank = 2 * width, max(width // 16, 8)
        shapes = {
            "in_proj": (width, 2 * inner),
            "x_proj": (inner, rank + 32),
            "dt_proj": (rank, inner),
            "out_proj": (inner, width),
        }
        for name, shape in shapes.items():
            report.part(
                f"projection {width} {name}",
                lambda found, w=width, n=name, s=shape: measure(report, found, w, n, *s),
            )


def measure(report: Report, found: dict[str, Any], width: int, name: str, k: int, n: int) -> None:
    rows = 64 if report.dry else 32768
    x = torch.randn(rows, k, device=report.device).bfloat16()
    dy = torch.randn(rows, n, device=report.device).bfloat16()
    dense = torch.randn(n, k, device=report.device).bfloat16()

    def once() -> object:
        return x @ dense.t(), dy @ dense, dy.t() @ x

    found["shape"] = (rows, k, n)
    found["dense"] = base = time_calls(once, report, seconds=0.1)
    texts = []
    for mix, shares in MIXES.items():
        inputs = batch(x, n, shares)
        ways: dict[str, Timing] = {}
        for way in ("grouped", "loop"):
            ways[way] = time_calls(both(inputs, dy, way), report, seconds=0.1)
        pick = "loop" if grouped.prefers_loop(inputs) else "grouped"
        best = min(ways, key=lambda w: ways[w].median)
        found[mix] = {**ways, "rule": pick, "best": best}
        over = "/".join(f"{ways[way].median / base.median:.2f}" for way in ("grouped", "loop"))
        texts.append(f"{mix} {over}" + ("" if pick == best else f" (rule takes {pick})"))
    check = batch(x[:512].contiguous() if not report.dry else x, n, (0.7, 0.3))
    reference = loop.forward(check).double()
    found["error"] = relative_error(product(check), reference)
    report.line(
        f"projection {width} {name:8} dense {base.median:7.3f} ms; grouped/loop over dense: "
        + ", ".join(texts)
    )


def batch(x: torch.Tensor, n: int, shares: tuple[float, ...]) -> LinearInputs:
    counts = [round(x.shape[0] * share) for share in shares]
    counts[0] += x.shape[0] - sum(counts)
    host = torch.tensor(counts).cumsum(0).to(torch.int32)
    weight = torch.randn(len(shares), n, x.shape[1], device=x.device).bfloat16()
    return LinearInputs(x, weight, None, host.to(x.device), host)


def product(inputs: LinearInputs) -> torch.Tensor:
    """The grouped product, whatever the rule says."""
    unknown = LinearInputs(inputs.x, inputs.weight, inputs.bias, inputs.offsets, None)
    return grouped.forward(unknown)


def both(inputs: LinearInputs, dy: torch.Tensor, way: str) -> Callable[[], object]:
    """Forward and backward of one way."""
    needs = (True, True, False)
    if way == "loop":
        return lambda: (loop.forward(inputs), loop.backward(inputs, dy, needs))
    unknown = LinearInputs(inputs.x, inputs.weight, None, inputs.offsets, None)
    return lambda: (grouped.forward(unknown), grouped.backward(unknown, dy, needs))
