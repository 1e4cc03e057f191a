"""Reads what a comparison made from its runs; damaged or outdated files are omitted and named."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..files import DamagedFile, digest, read_json, read_sums, verify
from ..training.metrics import read_metrics

__all__ = ["checkpoint_of", "read_artefact", "read_current"]


def checkpoint_of(run: Path) -> dict[str, Any]:
    """Which model a finished run holds: {"step", "sha256" of its weights}. What is made from a run
    carries it."""
    weights = run / "model" / "model.safetensors"
    known = read_sums(weights.parent).get(weights.name)
    step = read_metrics(run / "metrics.jsonl")[-1]["step"]
    return {"step": step, "sha256": known or digest(weights)}


def read_current(path: Path, run: Path) -> tuple[dict[str, Any] | None, str | None]:
    """What was made from a run, and where it was not made from the run's present model, why it is
    omitted: (value, None), (None, reason), or (None, None) where there is nothing."""
    found = read_artefact(path)
    if found is None:
        return None, None
    made_from = found.get("checkpoint")
    if made_from == checkpoint_of(run):
        return found, None
    return None, f"{path.name} " + (
        "does not say which checkpoint it was made from"
        if made_from is None
        else f"was made from another checkpoint (step {made_from.get('step')}, "
        f"{str(made_from.get('sha256'))[:8]})"
    )


def read_artefact(path: Path, kind: type = dict) -> Any:
    """The value of a JSON file that the comparison's command makes; None where it is not there, or
    where it or a file of its sealed folder is damaged, which is said.

    Args:
        kind: that it holds, dict or list.
    """
    if not path.is_file():
        return None
    try:
        verify(path.parent)
        return read_json(path, kind)
    except DamagedFile as error:
        print(f"left out, the comparison's command makes it again: {error}", file=sys.stderr)
        return None
