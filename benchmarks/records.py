"""JSON files of results, and the machine that they come from."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from mixture_of_mamba import __version__, files
from mixture_of_mamba.extras import package_versions

__all__ = ["SOURCES", "machine", "plain", "read", "write"]

#: Where this process has the library from, for the processes that it starts.
SOURCES = Path(files.__file__).parents[1]


def machine(*packages: str) -> dict[str, Any]:
    """Processor, threads and versions; of these packages too, None where one is not installed."""
    import torch

    from mixture_of_mamba.evaluation.machine import machine as facts

    here = facts()
    return {
        "cpu": here["processor"],
        "cores": int(here["cores"]),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "mixture_of_mamba": __version__,
        **package_versions(packages),
    }


def read(path: Path) -> dict[str, Any]:
    """What a file of results holds."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(path: Path, results: dict[str, Any]) -> None:
    """Write a file of results, complete or not at all."""
    files.write_text(path, json.dumps(results, indent=1, default=_plain) + "\n")


def plain(results: dict[str, Any]) -> dict[str, Any]:
    """The same as it is read from a file: dictionaries, lists, numbers and text."""
    found: dict[str, Any] = json.loads(json.dumps(results, default=_plain))
    return found


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)
