"""Checks of what users give: texts, and names of files."""

from __future__ import annotations

from pathlib import Path

__all__ = ["check_text", "readable_file", "reason"]


def check_text(text: str) -> str:
    """The text, if UTF-8 can hold it.

    Raises:
        ValueError: it contains half of a surrogate pair, as damaged JSON and cut strings do.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has the lone surrogate U+{ord(text[error.start]):04X} at character "
            f"{error.start + 1}, which UTF-8 cannot hold; repair or remove it"
        ) from error
    return text


def readable_file(path: str | Path, kind: str) -> Path:
    """The path, if it names a regular file.

    Args:
        kind: what it should be, for messages.

    Raises:
        FileNotFoundError: there is nothing under this name.
        ValueError: it is a folder, a device or a pipe, or no name of a file at all.
    """
    path = Path(path)
    try:
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, ValueError) as error:  # longer than names may be, or with a zero byte in it
        raise ValueError(f"{kind} {_short(path)} cannot be read ({reason(error)})") from error
    if there:
        raise ValueError(f"{kind} {_short(path)} cannot be read (it is no file)")
    raise FileNotFoundError(f"{kind} {_short(path)} cannot be read (there is no such file)")


def reason(error: BaseException) -> str:
    """What an error says, without the path that its message would repeat."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}... ({len(text):,} characters)"
