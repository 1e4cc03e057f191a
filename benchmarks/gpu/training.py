"""Whole training steps at the paper's scales: forward, backward and AdamW, bf16 autocast.

What the targets need comes first, compiled variants last. All variants of a scale and length take
the same number of tokens a step: where one does not fit, its group is measured again with half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mixture_of_mamba.models.flops import flops_per_token

from . import peers
from .measuring import time_calls
from .reporting import Report
from .variants import (
    COMPILED,
    DENSE,
    DENSE_AGAIN,
    FOREIGN,
    MASKS,
    MIXTURE,
    TRANSFORMER,
    Variant,
    build,
    configuration,
)

__all__ = ["Group", "groups", "run", "step_name"]

TOKENS = 16384  # a step, where they fit


@dataclass(frozen=True)
class Group:
    """Variants that are compared, and so take equally many tokens; the hungriest first, so that
    little is measured twice."""

    scale: str
    length: int
    variants: tuple[Variant, ...]
    may_shrink: bool = True


EAGER = (MASKS, DENSE, MIXTURE, DENSE_AGAIN, TRANSFORMER, FOREIGN)
LONG = (MIXTURE, TRANSFORMER, DENSE)
LARGE, SMALLER = "transfusion-1.4b", ("transfusion-760m", "transfusion-163m")


def groups(dry: bool) -> list[Group]:
    """In the order of how much they are needed."""
    if dry:
        return [Group("tiny", 16, EAGER)]
    eager = [Group(LARGE, 4096, EAGER), Group(LARGE, 8192, LONG), Group(LARGE, 16384, LONG)]
    eager += [Group(scale, 4096, EAGER) for scale in SMALLER]
    compiled = [Group(s, 4096, (COMPILED,), may_shrink=False) for s in (LARGE, *SMALLER)]
    return eager + compiled


def run(report: Report) -> None:
    fit: dict[str, int] = {}  # tokens a step by scale
    for group in groups(report.dry):
        tokens = max(group.length, fit.get(group.scale, 32 if report.dry else TOKENS))
        tokens = run_group(report, group, tokens)
        fit.setdefault(group.scale, tokens)


def step_name(scale: str, variant: str, length: int, tokens: int) -> str:
    return f"step {scale} {variant} L {length}, {tokens} tokens"


def run_group(report: Report, group: Group, tokens: int) -> int:
    """Measure all variants of a group; how many tokens a step they took."""
    while True:
        for variant in group.variants:
            found = run_variant(report, group, variant, tokens)
            fits = found is None or not found["out_of_memory"]
            if not fits and group.may_shrink and tokens // 2 >= group.length:
                tokens //= 2
                break
        else:
            return tokens


def run_variant(
    report: Report, group: Group, variant: Variant, tokens: int
) -> dict[str, Any] | None:
    name = step_name(group.scale, variant.name, group.length, tokens)
    if variant.foreign and (why := peers.why_no_mamba()):
        report.leave_out(name, f"not measured: {why}")
        return None
    return report.part(
        name,
        lambda found: measure(report, found, group.scale, variant, tokens, group.length),
        needs=60 if variant.compiled else 20,
        limit=240 if variant.compiled else 150,
    )


def measure(
    report: Report, found: dict[str, Any], scale: str, variant: Variant, tokens: int, length: int
) -> None:
    config = configuration(scale, variant)
    found |= {
        "scale": scale, "variant": variant.name, "tokens": tokens, "length": length,
        "kernels": peers.kernels() if variant.masks else None, "out_of_memory": False,
    }  # fmt: skip
    label = f"step {scale:17}{variant.name:17}L {length:5}, {tokens:5} tokens: "
    try:
        step, model = build(report, config, variant, tokens // length, length)
        found["parameters"] = sum(p.numel() for p in model.parameters())
        step()
        if report.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found["time"] = t = time_calls(step, report, seconds=3.0)
    except torch.cuda.OutOfMemoryError:
        found["out_of_memory"] = True
        report.line(label + "does not fit into memory")
        return
    found["tokens_per_second"] = rate = tokens / t.median * 1e3
    found["flops_per_token"] = flops = flops_per_token(config, window=length)
    found["flops_per_second"] = flops * rate
    found["peak_gib"] = peak = (
        torch.cuda.max_memory_allocated() / 2**30 if report.device.type == "cuda" else 0.0
    )
    gemm = report.found.get("gemm", {}).get("flops_per_second")
    share = f" = {flops * rate / gemm:4.0%} of the product rate" if gemm else ""
    report.line(
        f"{label}{t.median:8.1f} ms, {rate / 1e3:7.1f}k tokens/s, "
        f"{flops * rate / 1e12:6.1f} TFLOP/s{share}, peak {peak:5.1f} GiB"
    )
