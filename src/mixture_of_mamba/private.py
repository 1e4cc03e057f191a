"""Checks that only this user can write a cache folder, whose content is run or trusted.

A folder or file is opened first and checked by its descriptor, so that the checked file is the one
that is read, even if another process renames or links something in between. On systems without user
ids (Windows), where a user's folders are private by default, nothing is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["NotPrivate", "check_folder", "open_file", "open_folder"]


class NotPrivate(OSError):
    """A folder or file belongs to another user, or others can write it; says what to do."""


def open_folder(path: Path) -> int:
    """A descriptor of a folder that this user owns and nobody else can write, made if missing, with
    private folders above it.

    Raises:
        NotPrivate: it belongs to another user, or others can write it.
        OSError: it cannot be made or opened.
    """
    for folder in reversed((path, *path.parents)):  # parents=True would leave them to the umask
        if folder == path or not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    return _checked(os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)), path)


def open_file(name: str, folder: int, path: Path) -> int:
    """A descriptor of the file `name` in an open folder, under the same rule.

    Args:
        name: without a folder; no link is followed.
        folder: from `open_folder`.
        path: of the file, for the message.

    Raises:
        NotPrivate: it is a link, belongs to another user, or others can write it.
        FileNotFoundError: it does not exist.
    """
    try:
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotPrivate(f"{path} is no file that can be read ({error.strerror})") from error
    return _checked(found, path)


def check_folder(path: Path) -> None:
    """Raise as `open_folder` does, without keeping the folder open."""
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
