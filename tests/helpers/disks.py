"""Disks that refuse: real ones where this process may mount, else the nearest thing."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["full_disk", "read_only"]


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    """A tmpfs on `folder`, its content lost at the end; False where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full_disk(folder: Path, kilobytes: int = 0) -> Iterator[str]:
    """`folder` takes no more than so many kB; yields the reason that errors must give.

    Without the right to mount, no file of this process grows beyond that.
    """
    with _mounted(folder, "size=2m") as mounted:
        if mounted:
            (folder / "filling").write_bytes(bytes(2 << 20))
            if kilobytes:
                with (folder / "filling").open("r+b") as file:
                    file.truncate((2 << 20) - kilobytes * 1024)
            yield "No space left on device"
            return
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, before[1]))
        try:
            yield "File too large"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """`folder` is there and nothing can be written into it."""
    with _mounted(folder, "ro") as mounted:
        if not mounted:
            folder.chmod(0o555)
            try:
                (folder / "probe").write_bytes(b"")
            except OSError:
                pass
            else:
                folder.chmod(0o755)
                pytest.skip("this user writes into read-only folders and may not mount one")
        yield
        folder.chmod(0o755) if not mounted else None
