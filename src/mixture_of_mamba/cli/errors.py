"""How a failed command ends: one line on standard error, and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback

from ..files import WriteError, why_not_written

__all__ = ["one_line", "report"]

#: Reasons that only a write can fail for. A WriteError says more, where a file's name is known.
_WRITE_REASONS = [os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)]
#: Errors that a user can do something about; others are reported as unexpected.
EXPECTED_ERRORS = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    RuntimeError,
    argparse.ArgumentError,
)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    text = str(error)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    return " ".join(text.split()) or type(error).__name__


def report(error: BaseException, command: str) -> int:
    """Print an error as one line, after its traceback where MOM_TRACEBACK=1.

    Returns:
        The exit code.
    """
    if os.environ.get("MOM_TRACEBACK"):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    message = one_line(error)
    if isinstance(error, ModuleNotFoundError) and message.startswith("No module named"):
        missing = (error.name or "").partition(".")[0]
        message = (
            f"this needs the package {missing!r}, which is not installed; "
            "install it with: pip install 'mixture-of-mamba[train]'"
        )
    if (
        not isinstance(error, WriteError)
        and (why := why_not_written(error))
        and why[0] in _WRITE_REASONS
    ):
        named = getattr(error, "filename", None)
        message = f"{named or message}: {'; '.join(why)}".format(elsewhere="choose another place")
        error = WriteError(message)
    if not isinstance(error, EXPECTED_ERRORS):
        message = f"unexpected {type(error).__name__}: {message}; MOM_TRACEBACK=1 shows where"
    print(f"{command}: {message}", file=sys.stderr)
    return 1
