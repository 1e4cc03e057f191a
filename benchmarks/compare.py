"""Two runs of a benchmark side by side: `python -m benchmarks compare OLD.json NEW.json`.

Compared are ratios that were formed within a run (a mixture over dense, times faster than a peer).
Milliseconds are not: another machine, or another hour of the same one, changes all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .gpu.targets import ratios as gpu_ratios

__all__ = ["Ratio", "main", "ratios", "table"]


class Problem(Exception):
    """What is wrong with the files, in one line."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of one run, and its 95 % interval where the run has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.low:.4g}..{self.high:.4g})"

    def apart(self, other: Ratio) -> str:
        """Whether the intervals of two runs have nothing in common; empty where one has none."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return ""
        return "apart" if self.high < other.low or other.high < self.low else "overlap"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD.json", help="results of a run")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="of the same benchmark, later")
    given = parser.parse_args(argv)
    try:
        results = [_read(path) for path in (given.old, given.new)]
        old, new = (
            _ratios_of(path, found)
            for path, found in zip((given.old, given.new), results, strict=True)
        )
        if not old.keys() & new.keys():
            raise Problem(
                f"{given.old} and {given.new} have no ratio in common; "
                "give two results of the same benchmark"
            )
    except Problem as problem:
        print(f"python -m benchmarks compare: {problem}", file=sys.stderr)
        return 2
    for name, found in zip(("old", "new"), results, strict=True):
        print(f"{name}: {_machine(found)}")
    print()
    print(table(old, new))
    return 0


def ratios(results: Any) -> dict[str, Ratio]:
    """All ratios of a run by what they are of: those that a key of the file calls so ("times faster
    than", "speedup", "… over …"); of a GPU's file, which has times alone, those with a target."""
    if "parts" in results:
        return {name: Ratio(value) for name, value in gpu_ratios(results).items()}
    found = dict(_walk(results, "", False))
    # A candidate that others are measured against has a ratio to itself, without a scatter.
    return {name: ratio for name, ratio in found.items() if ratio != Ratio(1.0)}


def table(old: dict[str, Ratio], new: dict[str, Ratio]) -> str:
    """Markdown; a line for each ratio that both have, and how many only one of them has."""
    lines = ["| ratio | old | new | change | intervals |", "|---|---:|---:|---:|---|"]
    for name, before in old.items():
        if (after := new.get(name)) is not None:
            change = f"{after.value / before.value - 1:+.1%}" if before.value else ""
            lines.append(f"| {name} | {before} | {after} | {change} | {before.apart(after)} |")
    for which, mine, other in (("old", old, new), ("new", new, old)):
        if missing := [name for name in mine if name not in other]:
            names = "; ".join(missing[:3]) + ("; …" if len(missing) > 3 else "")
            lines += ["", f"Only in the {which} file: {len(missing)} ({names})"]
    return "\n".join(lines)


def _walk(value: Any, where: str, is_ratio: bool) -> Iterator[tuple[str, Ratio]]:
    if isinstance(value, dict):
        if value.keys() >= {"median", "low", "high", "pairs"}:
            yield where, Ratio(value["median"], value["low"], value["high"])
            return
        for key, inner in value.items():
            yield from _walk(inner, f"{where}, {key}" if where else key, is_ratio or _names(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _walk(inner, f"{where} {_label(inner, i)}".strip(), is_ratio)
    elif is_ratio and isinstance(value, int | float) and not isinstance(value, bool):
        yield where, Ratio(float(value))


def _names(key: str) -> bool:
    return key == "speedup" or key.startswith("times faster") or "over" in key.split()


def _label(run: Any, i: int) -> str:
    """What a list's entry was measured on, or its number."""
    if not isinstance(run, dict) or not ("what" in run or "size" in run):
        return str(i + 1)
    size = " x ".join(map(str, run.get("size", ())))
    return " ".join(str(x) for x in (run.get("what"), size) if x)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Problem(f"{path} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise Problem(f"{path} is no file of results: a {type(found).__name__}, not an object")
    return found


def _ratios_of(path: Path, results: dict[str, Any]) -> dict[str, Ratio]:
    try:
        found = ratios(results)
    except (AttributeError, KeyError, TypeError) as error:
        raise Problem(f"{path} is no file of results that is known here: {error!r}") from error
    if not found:
        raise Problem(
            f"{path} has no ratios; give what `python -m benchmarks cpu --out FILE` wrote, "
            "or gpu, decode, busy"
        )
    return found


def _machine(results: dict[str, Any]) -> str:
    """The machine and the versions, as far as the file says."""
    facts = results.get("machine")
    if not isinstance(facts, dict):
        facts = results
    known = ("cpu", "device", "gpu", "threads", "torch", "mixture_of_mamba")
    said = [f"{key} {facts[key]}" for key in known if isinstance(facts.get(key), str | int)]
    return ", ".join(said) or "an unnamed machine"
