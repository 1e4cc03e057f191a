"""Optional packages: a missing one is named together with the extra that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs"]


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Turns an ImportError inside the block into one that says what to install.

    Args:
        what: what the user wanted, as the beginning of a sentence.
        extra: the extra of this package that brings the missing one.
    """
    try:
        yield
    except ImportError as error:
        missing = error.name or str(error)
        raise ImportError(
            f"{what} needs the package {missing!r}, which is not installed; "
            f"install it with: pip install 'mixture-of-mamba[{extra}]'"
        ) from error
