"""Optional packages: the error for a missing one names the extra that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["needs"]


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
