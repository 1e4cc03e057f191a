"""Packages whose names are imported when they are first used (PEP 562).

`import mixture_of_mamba` must not import torch, which takes seconds: `mom --help` needs none of it.
Type checkers read the imports under TYPE_CHECKING instead; tests/test_lazy.py compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, homes: Mapping[str, Iterable[str]], rooms: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        homes: module or sub-package, relative to the package -> public names that it defines.
        rooms: sub-packages that are imported as attributes too.
    """
    home = {name: module for module, names in homes.items() for name in names}
    modules = frozenset(rooms)
    everything = sorted({*home, *modules})

    def get(name: str) -> Any:
        if name in home:
            value = getattr(import_module(f"{package}.{home[name]}"), name)
            setattr(sys.modules[package], name, value)  # this function is not called for it again
            return value
        if name in modules:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *everything})

    return get, names, sorted(home)
