"""Packages that may be missing: their versions, and an error that names the extra to install."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

__all__ = ["needs", "package_versions"]


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Of each package in this order; None: it is not installed."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into one that says what to install.

    Args:
        what: the feature that the user asked for, as the subject of a sentence.
        extra: the extra of this package that installs the missing one.
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise ImportError(
            f"{what} needs the package {missing!r}, which is not installed; "
            f"install it with: pip install 'mixture-of-mamba[{extra}]'"
        ) from error
