"""A lock on a run folder: one writer at a time, named in the lock, released when it ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from datetime import datetime
from pathlib import Path

from ..files import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "FolderInUse", "FolderLock", "writer_of"]

LOCK = ".lock"
#: Attempts and seconds between them: `writer_of` holds the lock for a moment.
_TRIES, _PAUSE = 10, 0.03


class FolderInUse(RuntimeError):
    """Another process writes into the folder; the message names it."""


class FolderLock:
    """The right to write into a folder; `acquire` and `release`, or a `with` block.

    The system holds the lock (`flock`) for the open file, so that it ends with the process however
    that ends; its content is for people. Where the file system or Windows has no such locks,
    nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: int | None = None
        self._made = False

    def acquire(self) -> FolderLock:
        """Make the folder where it is missing, and take it.

        Raises:
            FolderInUse: another process has it.
            WriteError: the folder cannot be made, or not be written.
        """
        if self._file is not None:
            return self
        with writing(self.folder, "choose another folder with --out"):
            self._made = not self.folder.is_dir()
            self.folder.mkdir(parents=True, exist_ok=True)
            if fcntl is None:
                return self
            for _ in range(_TRIES):
                if self._take():
                    return self
                time.sleep(_PAUSE)
        raise FolderInUse(
            f"{self.folder} is being written by {_holder(self.folder)}; wait until it has ended, "
            "or end it with kill, which leaves a checkpoint"
        )

    def _take(self) -> bool:
        path = self.folder / LOCK
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return False
            print(f"{self.folder}: no lock ({error.strerror}); one writer only!", file=sys.stderr)
            path.unlink(missing_ok=True)
            return True
        if not _is(path, file):  # the holder before removed it in between
            os.close(file)
            return False
        self._file = file
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        plain = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.truncate(file, 0)
        os.write(file, json.dumps(plain).encode() + b"\n")
        return True

    def release(self) -> None:
        """Give the folder back; a folder that was made for this and holds nothing goes too."""
        if self._file is not None:
            (self.folder / LOCK).unlink(missing_ok=True)  # before anybody else can have it
            os.close(self._file)
            self._file = None
        if self._made and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
        self._made = False

    def __enter__(self) -> FolderLock:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


def writer_of(folder: Path) -> str | None:
    """The process that writes into a folder, in words; None if there is none."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _holder(folder)
    finally:
        os.close(file)
    return None


def _holder(folder: Path) -> str:
    try:
        plain = json.loads((folder / LOCK).read_text())
        return f"process {plain['pid']} on {plain['host']}, since {plain['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False
