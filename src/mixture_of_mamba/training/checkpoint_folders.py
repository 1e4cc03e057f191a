"""Which checkpoints a run's folder has, by their names; reading them is checkpoint.py's."""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkpoints", "step_of"]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("step-*") if p.is_dir())


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("step-"))
