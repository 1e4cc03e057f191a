"""Write the requirements*.lock files: what `make demo` and `make test` install.

    make lock       # the newest versions that pyproject.toml allows; then run all the tests

One universal resolution (`uv pip compile`) serves every platform. PyPI's torch for Linux is a CUDA
build with some twenty packages of its own; the CPU build of the same version needs none of them, so
they stand in a file of their own. torch carries the hashes of both builds.

    requirements-cpu.lock     torch's CPU build alone; the Makefile takes it where pip finds it,
                              because pip prefers files whose index states their hash
    requirements.lock         everything, torch in either build
    requirements-cuda.lock    what the CUDA build needs besides; installed where it is needed
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = "2.13.0"  # every run in CI and every figure in docs/ is of this version
CPU_BUILD = f"{TORCH}+cpu"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # where the CPU build is not found otherwise
PYTHON = "3.11"
CUDA = re.compile(r"(nvidia|cuda)-")
HEADER = """\
# Made by `make lock` (tools/lock.py); do not edit. {what}
"""
_WHAT = "Every package of the extras dev and docs, and setuptools."
_WHAT_CPU = "torch without CUDA, for Linux on x86-64."
_WHAT_CUDA = f"What PyPI's torch {TORCH} for Linux needs besides requirements.lock."


def resolve() -> str:
    """The universal resolution of pyproject.toml, with every file's hash."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.in"
        pins.write_text(f"torch=={TORCH}\nsetuptools\n")
        command = [
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"),
            *("--universal", "--python-version", PYTHON, "--generate-hashes", "--no-annotate"),
            *("--all-extras", str(ROOT / "pyproject.toml"), str(pins)),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def split(lock: str) -> tuple[list[str], list[str]]:
    """The entries of a resolution: those of everybody, and those of torch's CUDA build."""
    entries = re.findall(r"^\S.*(?:\n[ \t].*)*", lock, re.MULTILINE)
    cuda = [entry for entry in entries if CUDA.match(entry)]
    return [entry for entry in entries if not CUDA.match(entry)], cuda


def with_hashes(entry: str, hashes: list[str]) -> str:
    """The entry with these hashes (sha256, hexadecimal) besides its own, all in order."""
    first, *lines = entry.split(" \\\n")
    known = {line.strip() for line in lines} | {f"--hash=sha256:{h}" for h in hashes}
    return " \\\n".join([first, *(f"    {line}" for line in sorted(known))])


def cpu_build_hashes() -> list[str]:
    """SHA-256 of torch's CPU wheel for Linux and this Python."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder),
            f"torch=={CPU_BUILD}",
        ]
        if subprocess.run(command, env={**os.environ}, stderr=subprocess.DEVNULL).returncode:
            subprocess.run([*command, "--index-url", CPU_INDEX], check=True)
        return [hashlib.sha256(f.read_bytes()).hexdigest() for f in Path(folder).glob("*.whl")]


def main() -> None:
    """Write the three files."""
    everybody, cuda = split(resolve())
    hashes = cpu_build_hashes()
    everybody = [
        with_hashes(entry, hashes) if entry.startswith(f"torch=={TORCH} ") else entry
        for entry in everybody
    ]
    cpu = [with_hashes(f"torch=={CPU_BUILD}", hashes)]
    for name, what, entries in (
        ("requirements-cpu.lock", _WHAT_CPU, cpu),
        ("requirements.lock", _WHAT, everybody),
        ("requirements-cuda.lock", _WHAT_CUDA, cuda),
    ):
        (ROOT / name).write_text(HEADER.format(what=what) + "\n".join(entries) + "\n")
        print(f"{name}: {len(entries)} entries")


if __name__ == "__main__":
    main()
