"""Triton 3.6, which torch 2.11 brings, in a folder of its own beside the installed one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["VERSION", "install"]

VERSION = "3.6.0"
LOCK = Path(__file__).with_name("triton-3.6.lock")
FOLDER = Path(__file__).parents[2] / ".cache" / f"triton-{VERSION}"


def install() -> Path:
    """The folder to put on PYTHONPATH; filled at the first call (190 MB from the package index).

    Raises:
        RuntimeError: it cannot be installed here; the message has pip's last line.
    """
    mark = FOLDER / "installed"
    if mark.exists():
        return FOLDER
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"),
            *("--disable-pip-version-check", "--target", str(FOLDER)),
            *("--require-hashes", "-r", str(LOCK)),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"Triton {VERSION} cannot be installed here: {last}")
    mark.touch()
    return FOLDER
