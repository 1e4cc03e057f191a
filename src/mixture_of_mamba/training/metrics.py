"""metrics.jsonl: one JSON object a line, flushed at once, truncated to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import replacing, writing

__all__ = ["MetricsLog", "read_metrics"]


class MetricsLog:
    """Appends to a run's metrics.jsonl.

    Args:
        path: the file.
        up_to: lines of later steps are removed first (a resumed run writes them again), and so is a
            line that a kill left unfinished.
    """

    def __init__(self, path: Path, *, up_to: int) -> None:
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= up_to]
            with replacing(path) as part:
                part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._path = path
        with writing(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one object; it is flushed to the system when this returns.

        Raises:
            WriteError: the file cannot grow; a line that was begun is cut at resume.
        """
        with writing(self._path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until every line is on the disk, so that a checkpoint is never ahead of the log."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # `write` has raised it, and what it could not write is still there
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; an unfinished last line is skipped.

    Raises:
        ValueError: a line in the middle is not a JSON object.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    read = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            read.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a JSON object: {error}") from error
    return read
