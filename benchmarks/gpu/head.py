"""The loss over a large vocabulary: in slices of rows, against all logits at once."""

from __future__ import annotations

from typing import Any

import torch

from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference

from .measuring import peak_memory, time_calls
from .reporting import Report

__all__ = ["run"]


def run(report: Report) -> None:
    report.part("head 65k", lambda found: measure(report, found))


def measure(report: Report, found: dict[str, Any]) -> None:
    rows, d, vocabulary = (64, 32, 100) if report.dry else (16384, 2048, 65536)
    hidden = torch.randn(rows, d, device=report.device).bfloat16().requires_grad_()
    weight = (torch.randn(vocabulary, d, device=report.device) * d**-0.5).bfloat16()
    weight = weight.requires_grad_()
    targets = torch.randint(vocabulary, (rows,), device=report.device)
    found["shape"] = (rows, d, vocabulary)
    ways = {
        "slices": lambda: linear_cross_entropy(hidden, weight, targets),
        "all logits": lambda: linear_cross_entropy_reference(hidden, weight, targets),
    }
    for name, way in ways.items():

        def step(way: Any = way) -> None:
            torch.autograd.grad(way().mean(), [hidden, weight])

        found[name] = {
            "time": time_calls(step, report),
            "peak_gib": peak_memory(step, report.device),
        }
    texts = [
        f"{name} {v['time'].median:.2f} ms, {v['peak_gib']:.2f} GiB" for name, v in found.items()
        if name in ways
    ]  # fmt: skip
    report.line(f"head {rows}x{d}x{vocabulary}, forward and backward: " + "; ".join(texts))
