"""Cache folders that only this user can write: what is read from a cache is run, or trusted.

A folder or file is opened first and checked by its descriptor, so that what was looked at is what
is read, whoever renames or links what meanwhile. Where the system has no user ids (Windows), a
user's folders are private by themselves and nothing is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["NotPrivate", "check_folder", "open_file", "open_folder"]


class NotPrivate(OSError):
    """A folder or file that is somebody else's, or that others can write; says what to do."""


def open_folder(path: Path) -> int:
    """A descriptor of a folder that this user owns and nobody else can write, made if missing, with
    private folders above it.

    Raises:
        NotPrivate: it is somebody else's, or others can write it.
        OSError: it cannot be made or opened.
    """
    for folder in reversed((path, *path.parents)):  # parents=True would leave them to the umask
        if folder == path or not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    return _checked(os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)), path)


def open_file(name: str, folder: int, path: Path) -> int:
    """A descriptor of the file `name` in an open folder; the same rule.

    Args:
        name: without a folder; no link is followed.
        folder: from `open_folder`.
        path: of the file, for the message.

    Raises:
        NotPrivate: it is a link, somebody else's, or others can write it.
        FileNotFoundError: there is none.
    """
    try:
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotPrivate(f"{path} is no file that can be read ({error.strerror})") from error
    return _checked(found, path)


def check_folder(path: Path) -> None:
    """`open_folder` where only its answer counts."""
    if hasattr(os, "geteuid"):
        os.close(open_folder(path))
    else:
        path.mkdir(parents=True, exist_ok=True)


def _checked(descriptor: int, path: Path) -> int:
    try:
        facts, user = os.fstat(descriptor), os.geteuid()
        if facts.st_uid != user:
            raise NotPrivate(
                f"{path} belongs to user {facts.st_uid}, and this is user {user}; "
                "what is in it is not trusted"
            )
        if facts.st_mode & 0o022:  # with access lists, the group's bits are the mask of all others
            raise NotPrivate(
                f"{path} can be written by other users (mode {facts.st_mode & 0o7777:o}); "
                f"if what is in it is yours: chmod go-w {path}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
