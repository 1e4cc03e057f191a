"""What the device can do: bytes a second of a copy, operations a second of bf16 products."""

from __future__ import annotations

from typing import Any

import torch

from .measuring import time_calls
from .reporting import Report

__all__ = ["run"]


def run(report: Report) -> None:
    report.part("copy", lambda found: copy(report, found))
    size = 32 if report.dry else 8192
    report.part("gemm", lambda found: gemm(report, found, "square", size, size, size))
    for width in (32,) if report.dry else (768, 1536, 2048):
        rows, inner, rank = (64 if report.dry else 32768), 2 * width, width // 16
        shapes = {
            "in_proj": (rows, width, 2 * inner),
            "x_proj": (rows, inner, rank + 32),
            "dt_proj": (rows, rank, inner),
            "out_proj": (rows, inner, width),
        }
        for name, shape in shapes.items():
            label = f"gemm {width} {name}"
            report.part(label, lambda found, a=label, s=shape: gemm(report, found, a, *s))


def copy(report: Report, found: dict[str, Any]) -> None:
    """Device to device, bytes read plus bytes written."""
    n = 1 << (12 if report.dry else 31)
    source = torch.empty(n, dtype=torch.uint8, device=report.device).random_()
    target = torch.empty_like(source)
    found["time"] = t = time_calls(lambda: target.copy_(source), report)
    found["bytes_per_second"] = rate = 2 * n / t.median * 1e3
    report.line(f"copy                          {rate / 1e12:8.2f} TB/s")


def gemm(report: Report, found: dict[str, Any], label: str, m: int, k: int, n: int) -> None:
    """(m, k) x (k, n) in bf16 on random data (zeros run faster and prove nothing)."""
    a = torch.randn(m, k, device=report.device).bfloat16()
    b = torch.randn(n, k, device=report.device).bfloat16()
    found["shape"] = (m, k, n)
    found["time"] = t = time_calls(lambda: a @ b.t(), report)
    found["flops_per_second"] = rate = 2 * m * k * n / t.median * 1e3
    report.line(
        f"bf16 product {label:16} {m:6}x{k:5}x{n:5} {rate / 1e12:8.1f} TFLOP/s  {t.median:8.3f} ms"
    )
