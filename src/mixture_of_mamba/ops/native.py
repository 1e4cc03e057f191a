"""The C++ kernels of the CPU: compiled at first use with the system's compiler, cached, loaded.

A compiled library is named after everything that it depends on (sources, compiler, flags, CPU),
is written next to its place and moved there in one step; so several processes may start at once,
and a new version, compiler or machine never meets an old file. Whoever cannot compile gets a
reason, and the portable backends.

Code is loaded only from a folder and a file that this user owns and nobody else can write
(private.py). Where the cache is no such folder, the kernels are compiled into a new private folder,
for this process alone, and a warning says why.

Environment: MOM_CACHE names the root of the cache, MOM_NATIVE=0 switches the kernels off
(cache_folders.py), CXX names the compiler and CXXFLAGS adds flags to it.
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
import warnings
from pathlib import Path

import torch

from .. import private
from ..cache_folders import cache_folder, kernels_off

__all__ = ["describe", "library", "threads", "why_not"]

SOURCES = Path(__file__).parent / "csrc"
SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=default"),
    # A multiply-add may fuse; nothing else may be reordered, so results do not depend on
    # the compiler. No code here reads errno or floating-point traps.
    *("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
#: Elements that a thread is worth waking for, as in torch's own loops.
GRAIN = 1 << 15
#: A compiler that hangs is a failing compiler.
COMPILE_SECONDS = 300


class BuildError(RuntimeError):
    """The kernels cannot be compiled or loaded here; the message says why."""


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library and where it comes from, or why there is none; tried once per process."""
    if setting := kernels_off():
        return None, f"switched off by {setting}"
    try:
        return _from_cache() if hasattr(os, "geteuid") else _for_this_process("no user ids here")
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


def threads(elements: int) -> int:
    """Threads for a parallel region of so many elementary steps: torch's number, fewer for little
    work. Waking a thread costs some microseconds, and milliseconds where its core is busy with
    something else; results do not depend on the number."""
    return min(torch.get_num_threads(), max(1, elements // GRAIN))


def describe() -> str:
    """One line for `mom env`: where the kernels come from, or why there are none."""
    found, text = _loaded()
    if found is None:
        return f"not available: {text}"
    return f"{text} ({found.mom_vector_lanes()} float32 lanes)"


def _from_cache() -> tuple[ctypes.CDLL, str]:
    """The library of the cache folder, compiled if it is not there, or cannot be trusted."""
    path = cache_folder("native") / library_name()
    try:
        folder = private.open_folder(path.parent)
    except OSError as problem:  # a read-only home, or a folder of others
        return _for_this_process(str(problem))
    try:
        try:
            file = private.open_file(path.name, folder, path)
        except (FileNotFoundError, private.NotPrivate):
            if unwritable := _build_in(path.parent):
                return _for_this_process(unwritable)
            file = private.open_file(path.name, folder, path)
    finally:
        os.close(folder)
    return _open(file, path), str(path)


def _for_this_process(why: str) -> tuple[ctypes.CDLL, str]:
    """The library compiled into a new folder that only this user can enter, and that goes again."""
    with tempfile.TemporaryDirectory(prefix="mixture_of_mamba-") as name:  # mode 0700
        path = Path(name) / library_name()
        if problem := _build_in(path.parent):
            raise BuildError(f"{problem}, and no cache either: {why}")
        found = _open(os.open(path, os.O_RDONLY), path)
    warnings.warn(
        f"the C++ kernels are compiled anew by every process, because {why}; a folder of your own "
        "as MOM_CACHE keeps them",
        stacklevel=2,
    )
    return found, f"compiled for this process alone, because {why}"


def _build_in(folder: Path) -> str | None:
    """Compile the library into a folder; None, or why the folder cannot be written."""
    if (compiler := find_compiler()) is None:
        raise BuildError(
            "no C++ compiler found (tried $CXX, c++, g++, clang++); install one, e.g. g++"
        )
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as scratch:
            _compile(compiler, Path(scratch) / library_name(), folder / library_name())
    except OSError as error:  # read-only, or a full disk
        return f"{folder} cannot be written ({error.strerror})"
    return None


def _open(file: int, path: Path) -> ctypes.CDLL:
    """Load the very file that was checked, whatever stands at its path by now. The descriptor stays
    open: the loader knows libraries by name, and its number must not come to mean another one."""
    by_descriptor = Path("/proc/self/fd") / str(file)
    return ctypes.CDLL(str(by_descriptor if by_descriptor.exists() else path))


def library_name() -> str:
    """File name of the library for these sources, this compiler and this CPU."""
    return f"mixture_of_mamba-{fingerprint(find_compiler())}{SUFFIX}"


def _compile(compiler: str, scratch: Path, final: Path) -> None:
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
            scratch.chmod(0o700)  # whatever the umask lets others do
            scratch.replace(final)
            return
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
