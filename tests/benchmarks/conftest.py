"""The scripts of benchmarks/gpu, as modules of their own names for the length of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

GPU = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a script by name; all of them are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(GPU))
    yield import_module
    for path in GPU.glob("*.py"):
        sys.modules.pop(path.stem, None)
