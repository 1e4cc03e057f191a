"""Speed targets beside the measured times, one line each; what was not measured has no verdict.

Steps are compared at equal token counts only; where a group was measured at several, at the largest
that both have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["ratios", "target_lines"]

SCALE = "transfusion-1.4b"
SHAPE = [8, 4096, 4096, 16]  # batch, length, channels, states


@dataclass(frozen=True)
class Ratio:
    """Step time of one variant over another's."""

    title: str
    over: str
    under: str
    length: int
    sign: str
    limit: float


RATIOS = (
    Ratio("mixture / our dense step", "mixture", "dense", 4096, "<=", 1.02),
    Ratio("boolean masks / mixture", "masks", "mixture", 4096, ">=", 2.0),
    Ratio("mamba-ssm dense / our dense", "mamba-ssm", "dense", 4096, ">=", 1.4),
    Ratio("mamba-ssm dense / mixture", "mamba-ssm", "mixture", 4096, ">=", 1.4),
    *(
        Ratio(f"transformer / {ours}", "transformer", ours, length, sign, 1.0)
        for length, sign in ((4096, ">="), (8192, ">"), (16384, ">"))
        for ours in ("mixture", "dense")
    ),
)


def target_lines(state: dict[str, Any]) -> list[str]:
    """Lines of the table's end, from the JSON file's content."""
    lines = [f"targets ({SCALE}, bf16; times of a step, of equally many tokens):"]
    lines += [_ratio_line(state, ratio) for ratio in RATIOS]
    lines.append("targets (scan at batch 8, length 4096, 4096 channels, 16 states, bf16):")
    for way, limit in (("forward", 0.95), ("backward", 3.0)):
        lines += _scan_lines(state, way, limit)
    return lines


def ratios(state: dict[str, Any]) -> dict[str, float]:
    """Those of the targets that were measured, each with the tokens of its steps."""
    found: dict[str, float] = {}
    for ratio in RATIOS:
        over, under = (steps(state, name, ratio.length) for name in (ratio.over, ratio.under))
        if common := set(over) & set(under):
            tokens = max(common)
            name = f"{ratio.title}, L {ratio.length}, {tokens} tokens"
            found[name] = over[tokens] / under[tokens]
    part = state["parts"].get("scan large", {})
    for way in ("forward", "backward"):
        if part.get("shape") == SHAPE and way in part and (theirs := part.get(f"{way} mamba-ssm")):
            name = f"mamba-ssm's scan / ours, {way}"
            found[name] = theirs["median"] / part[way]["median"]
    return found


def steps(state: dict[str, Any], variant: str, length: int) -> dict[int, float]:
    """Milliseconds by tokens a step; dense ones are the mean of before and after the mixture."""
    names = (variant, f"{variant} again")
    found: dict[int, list[float]] = {}
    for part in state["parts"].values():
        if part.get("scale") != SCALE or part["length"] != length or "time" not in part:
            continue
        if part["variant"] in names:
            found.setdefault(part["tokens"], []).append(part["time"]["median"])
    return {tokens: sum(times) / len(times) for tokens, times in found.items()}


def _ratio_line(state: dict[str, Any], ratio: Ratio) -> str:
    title = f"{ratio.title}, L {ratio.length}"
    over, under = (steps(state, name, ratio.length) for name in (ratio.over, ratio.under))
    if not (common := set(over) & set(under)):
        absent = ratio.over if not over else ratio.under
        why = _why(state, f"step {SCALE} {absent} L {ratio.length},")
        return _line(title, why or "not measured", ratio.sign, ratio.limit)
    tokens = max(common)
    value = over[tokens] / under[tokens]
    note = f"{tokens} tokens: {over[tokens]:.1f} / {under[tokens]:.1f} ms"
    if ratio.over == "masks" and (kernels := _kernels(state)):
        note += f"; masks with the kernels of {kernels}"
    if ratio.under == "dense" and (drift := _drift(state, ratio.length, tokens)):
        note += f"; dense again {drift:+.1%}"
    return _line(title, f"{value:.3f}", ratio.sign, ratio.limit, value, note)


def _scan_lines(state: dict[str, Any], way: str, limit: float) -> list[str]:
    part = state["parts"].get("scan large", {})
    title, against = f"scan {way}, ms", f"mamba-ssm's scan / ours, {way}"
    if part.get("shape") != SHAPE or way not in part:
        why = _why(state, "scan large") or "not measured"
        return [_line(title, why, "<=", limit), _line(against, why, ">=", 2.0)]
    ours = part[way]["median"]
    lines = [_line(title, f"{ours:.3f}", "<=", limit, ours)]
    if theirs := part.get(f"{way} mamba-ssm"):
        value = theirs["median"] / ours
        note = f"{theirs['median']:.3f} / {ours:.3f} ms"
        return [*lines, _line(against, f"{value:.2f}", ">=", 2.0, value, note)]
    return [*lines, _line(against, "not measured: mamba-ssm cannot be imported", ">=", 2.0)]


def _line(
    title: str, text: str, sign: str, limit: float, value: float | None = None, note: str = ""
) -> str:
    verdict = ""
    if value is not None:
        met = {"<=": value <= limit, ">=": value >= limit, ">": value > limit}[sign]
        verdict = "   met" if met else "   MISSED"
    return f"  {title:38} {text:>9}   target {sign} {limit:g}{verdict}" + (note and f"   ({note})")


def _why(state: dict[str, Any], start: str) -> str | None:
    """Why no part whose name starts so has a time."""
    for name, part in state["parts"].items():
        if name.startswith(start) and part.get("out_of_memory"):
            return "not measured: does not fit into memory"
    for name, why in {**state["left_out"], **state["failed"]}.items():
        if name.startswith(start):
            return why if why.startswith("not ") else "not measured: failed"
    return None


def _kernels(state: dict[str, Any]) -> str | None:
    found = [p["kernels"] for p in state["parts"].values() if p.get("variant") == "masks"]
    return found[0] if found else None


def _drift(state: dict[str, Any], length: int, tokens: int) -> float | None:
    """How much longer a dense step took after the mixture than before."""
    times = {
        part["variant"]: part["time"]["median"]
        for part in state["parts"].values()
        if part.get("scale") == SCALE
        and (part["length"], part["tokens"]) == (length, tokens)
        and "time" in part
    }
    if {"dense", "dense again"} <= times.keys():
        return times["dense again"] / times["dense"] - 1
    return None
