"""The C++ kernels of the CPU: compiled at first use with the system's compiler, cached, loaded.

A compiled library is named after everything that it depends on (sources, compiler, flags, CPU),
is written next to its place and moved there in one step; so several processes may start at once,
and a new version, compiler or machine never meets an old file. Whoever cannot compile gets a
reason, and the portable backends.

Environment: MIXTURE_OF_MAMBA_CACHE names the cache folder, MIXTURE_OF_MAMBA_NATIVE=0 switches the
kernels off, CXX names the compiler and CXXFLAGS adds flags to it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

__all__ = ["cache_folder", "describe", "library", "why_not"]

SOURCES = Path(__file__).parent / "csrc"
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=default"),
    # A multiply-add may fuse; nothing else may be reordered: results do not depend on the
    # compiler's mood. No code here reads errno or floating-point traps.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
COMPILE_SECONDS = 300  # a compiler that hangs is a failing compiler


class BuildError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none; tried once per process."""
    if os.environ.get("MIXTURE_OF_MAMBA_NATIVE", "1") == "0":
        return None, "switched off by MIXTURE_OF_MAMBA_NATIVE=0"
    try:
        path = build()
        return ctypes.CDLL(str(path)), str(path)
    except (BuildError, OSError) as error:
        return None, str(error)


@torch.compiler.assume_constant_result
def why_not() -> str | None:
    """None where the kernels are usable, else the reason."""
    library_or_none, text = _loaded()
    return text if library_or_none is None else None


def library() -> ctypes.CDLL:
    """The loaded kernels.

    Raises:
        BuildError: there are none here.
    """
    found, text = _loaded()
    if found is None:
        raise BuildError(text)
    return found


def describe() -> str:
    """One line for `mom env`: where the kernels come from, or why there are none."""
    found, text = _loaded()
    if found is None:
        return f"not available: {text}"
    return f"{text} ({found.mom_vector_lanes()} float32 lanes)"


def build() -> Path:
    """The path of the library for this machine, compiled if it is not in the cache yet.

    Raises:
        BuildError: no compiler, a compiler that fails, or no folder to write to.
    """
    compiler = find_compiler()
    name = f"mixture_of_mamba-{fingerprint(compiler)}{SUFFIX}"
    folders = [SOURCES, cache_folder(), _temporary_folder()]
    for folder in folders:
        if (folder / name).is_file() and _is_ours(folder):
            return folder / name
    if compiler is None:
        raise BuildError(
            "no C++ compiler found (tried $CXX, c++, g++, clang++); install one, e.g. g++"
        )
    for folder in folders[1:]:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
                return _compile(compiler, Path(scratch) / name, folder / name)
        except OSError:  # a read-only home or a full disk: try the next folder
            continue
    raise BuildError(f"cannot write to {' or '.join(map(str, folders[1:]))}")


def _compile(compiler: str, scratch: Path, final: Path) -> Path:
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    problem = ""
    for extra in attempts():
        command = [compiler, *FLAGS, *_user_flags(), *sources, *extra, "-o", str(scratch)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"the compiler {compiler} did not run: {error}") from error
        if done.returncode == 0:
            scratch.replace(final)
            return final
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        problem = problem or lines[0].strip()
    raise BuildError(f"the compiler {compiler} fails on the kernels: {problem}")


def _user_flags() -> list[str]:
    return os.environ.get("CXXFLAGS", "").split()


def attempts() -> list[list[str]]:
    """Flags in order of preference: this CPU with threads, without threads, any CPU."""
    cpu = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return [[cpu, *_openmp()], [cpu], []]


def _openmp() -> list[str]:
    """Flags for OpenMP on the runtime that torch has loaded: a second would fight it for cores."""
    folder = Path(torch.__file__).parent / "lib"
    runtimes = sorted([*folder.glob("libgomp*.so*"), *folder.glob("libomp*.dylib")])
    if not runtimes:
        return ["-fopenmp"]
    on = ["-Xpreprocessor", "-fopenmp"] if sys.platform == "darwin" else ["-fopenmp"]
    return [*on, f"-Wl,-rpath,{folder}", str(runtimes[0])]


def find_compiler() -> str | None:
    """Full path of $CXX, c++, g++ or clang++, whichever is found first."""
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return found
    return None


@functools.cache
def fingerprint(compiler: str | None) -> str:
    """Hash of all that the library depends on."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    stamp = ""
    if compiler is not None:
        real = Path(compiler).resolve()
        stamp = f"{real} {real.stat().st_size} {real.stat().st_mtime_ns}"
    digest.update(
        repr([stamp, FLAGS, _user_flags(), attempts(), torch.__version__, _cpu()]).encode()
    )
    return digest.hexdigest()[:16]


def _cpu() -> str:
    """What `-march=native` looks at: the CPU's model and its features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in keys)


def cache_folder() -> Path:
    """$MIXTURE_OF_MAMBA_CACHE, or mixture_of_mamba in the user's cache folder."""
    if named := os.environ.get("MIXTURE_OF_MAMBA_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "mixture_of_mamba"
    return Path("~").expanduser() / ".cache" / "mixture_of_mamba"


def _temporary_folder() -> Path:
    """For read-only homes; named after the user, and refused unless it belongs to them."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"mixture_of_mamba-{user}"


def _is_ours(folder: Path) -> bool:
    """Never load code from a folder of somebody else's in a shared place."""
    return (
        folder != _temporary_folder()
        or not hasattr(os, "getuid")
        or (folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022)
    )
