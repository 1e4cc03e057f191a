"""Code that others could have written is never loaded; as two users, where this one is root."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mixture_of_mamba import private
from mixture_of_mamba.ops import native

OTHER = 65534  # nobody
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="two users need root"
)
pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")
ALONE = "compiled for this process alone"
LIBRARY = 'extern "C" int mom_vector_lanes() { return 77; }\n'
SPY = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) static void ran() {
  if (FILE* f = std::fopen(std::getenv("MOM_SPY"), "w")) std::fclose(f);
}
"""


@pytest.fixture(scope="module")
def spy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that leaves a file when it is loaded."""
    return compiled(tmp_path_factory.mktemp("spy"), SPY)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What "compiling" the kernels gives here, in no time."""
    return compiled(tmp_path_factory.mktemp("ours"), LIBRARY)


def compiled(folder: Path, text: str) -> Path:
    (folder / "a.cpp").write_text(text)
    compiler = native.find_compiler()
    assert compiler is not None
    command = [compiler, "-shared", "-fPIC", str(folder / "a.cpp"), "-o", str(folder / "a.so")]
    subprocess.run(command, check=True)
    return folder / "a.so"


@pytest.fixture
def planted(
    tmp_path: Path, spy: Path, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A private cache whose library, under the right name, is the spy; and the spy's sign."""

    def compile_(compiler: str, scratch: Path, final: Path) -> Path:
        shutil.copyfile(ours, scratch)
        scratch.chmod(0o700)
        scratch.replace(final)
        return final

    cache, temporary = tmp_path / "native", tmp_path / "tmp"
    cache.mkdir(mode=0o700)
    temporary.mkdir()
    monkeypatch.setenv("MOM_CACHE", str(tmp_path))
    monkeypatch.setenv("MOM_SPY", str(tmp_path / "sign"))
    monkeypatch.delenv("MOM_NATIVE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(native, "_compile", compile_)
    name = f"mixture_of_mamba-{native.fingerprint(native.find_compiler())}{native.SUFFIX}"
    shutil.copyfile(spy, cache / name)
    (cache / name).chmod(0o700)
    return cache / name, tmp_path / "sign"


def load() -> tuple[ctypes.CDLL, str]:
    """As a new process does."""
    found, text = native._loaded.__wrapped__()
    assert found is not None, text
    return found, text


def as_other(action: Callable[[], object]) -> str:
    """What an action says, or raises, that is done by another user."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(OTHER)
            os.setuid(OTHER)
            said = str(action())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_a_library_of_ours_is_loaded_so_the_spy_would_tell(planted: tuple[Path, Path]) -> None:
    library, sign = planted
    _, where = load()
    assert sign.exists() and where == str(library)


@as_root
def test_library_of_another_user_is_replaced_by_ours(planted: tuple[Path, Path]) -> None:
    library, sign = planted
    os.chown(library, OTHER, OTHER)
    found, where = load()
    assert not sign.exists() and where == str(library)
    assert found.mom_vector_lanes() == 77 and library.stat().st_uid == 0


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_library_that_others_can_write_is_replaced(planted: tuple[Path, Path], mode: int) -> None:
    library, sign = planted
    library.chmod(mode)
    found, where = load()
    assert not sign.exists() and where == str(library) and found.mom_vector_lanes() == 77
    assert not library.stat().st_mode & 0o022


def test_link_is_replaced(planted: tuple[Path, Path], spy: Path) -> None:
    library, sign = planted
    library.unlink()
    library.symlink_to(spy)
    found, _ = load()
    assert not sign.exists() and found.mom_vector_lanes() == 77
    assert stat.S_ISREG(library.lstat().st_mode)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_folder_that_others_can_write_is_not_used(
    planted: tuple[Path, Path], mode: int, tmp_path: Path
) -> None:
    library, sign = planted
    library.parent.chmod(mode)
    with pytest.warns(UserWarning, match=rf"by other users \(mode {mode:o}\).*chmod go-w"):
        found, where = load()
    assert not sign.exists() and where.startswith(ALONE) and found.mom_vector_lanes() == 77
    assert not any((tmp_path / "tmp").iterdir())  # nothing stays of the private one


def open_to_others(folder: Path) -> None:
    """Let another user get to a folder of pytest's, however deep it lies."""
    for part in (folder, *folder.parents):
        if part == Path(tempfile.gettempdir()):
            return
        part.chmod(0o755)


@as_root
def test_folder_of_another_user_is_not_used(planted: tuple[Path, Path]) -> None:
    library, sign = planted
    os.chown(library.parent, OTHER, OTHER)
    with pytest.warns(UserWarning, match=f"belongs to user {OTHER}, and this is user 0"):
        found, where = load()
    assert not sign.exists() and where.startswith(ALONE) and found.mom_vector_lanes() == 77


@as_root
def test_what_another_user_puts_into_the_temporary_folder_is_left_alone(
    planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name below a shared folder is known beforehand: somebody else may have taken it."""
    open_to_others(tmp_path)
    (tmp_path / "tmp").chmod(0o1777)
    theirs = tmp_path / "tmp" / "mixture_of_mamba-0"
    assert as_other(lambda: (theirs.mkdir(), theirs.chmod(0o777))) == "(None, None)"
    assert theirs.stat().st_uid == OTHER
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="compiled anew by every process"):
        found, where = load()
    assert found.mom_vector_lanes() == 77 and where.startswith(ALONE)
    assert not any(theirs.iterdir())


@as_root
def test_second_user_does_not_use_the_first_ones_folder(
    planted: tuple[Path, Path], tmp_path: Path
) -> None:
    cache = planted[0].parent
    open_to_others(tmp_path)
    cache.chmod(0o755)
    assert f"belongs to user 0, and this is user {OTHER}" in as_other(
        lambda: private.open_folder(cache)
    )


def test_folder_that_is_swapped_after_the_check_is_not_read(
    planted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor counts, not the path: whoever can write above the cache can move it away."""
    library, sign = planted
    shutil.move(library, tmp_path / "theirs.so")
    checked = private.open_folder

    def swap(path: Path) -> int:
        folder = checked(path)
        native._build_in(path)
        path.rename(tmp_path / "ours")
        path.mkdir()
        shutil.copy(tmp_path / "theirs.so", path / library.name)
        return folder

    monkeypatch.setattr(private, "open_folder", swap)
    found, _ = load()
    assert not sign.exists() and found.mom_vector_lanes() == 77


@pytest.mark.parametrize("mask", [0o002, 0o000])
def test_umask_that_lets_others_write_changes_nothing(
    planted: tuple[Path, Path], mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "new" / "native"
    monkeypatch.setenv("MOM_CACHE", str(tmp_path / "new"))
    before = os.umask(mask)
    try:
        _, where = load()
        assert load()[1] == where
    finally:
        os.umask(before)
    (library,) = cache.iterdir()
    assert where == str(library)
    assert not (library.stat().st_mode | cache.stat().st_mode) & 0o022


def test_compiled_library_cannot_be_written_by_others(tmp_path: Path) -> None:
    """Linkers go by the umask."""
    script = tmp_path / "cxx"
    script.write_text('#!/bin/sh\nfor out; do :; done\ntouch "$out"\nchmod 777 "$out"\n')
    script.chmod(0o755)
    native._compile(str(script), tmp_path / "scratch.so", tmp_path / "final.so")
    assert not (tmp_path / "final.so").stat().st_mode & 0o022


def test_triton_cache_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    from triton import knobs

    from mixture_of_mamba.ops.triton_support import keep_cache_private

    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    shared.chmod(0o777)
    with knobs.cache.scope():
        monkeypatch.setenv("TRITON_CACHE_DIR", str(own))
        keep_cache_private()
        assert knobs.cache.dir == str(own) and own.stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("TRITON_CACHE_DIR", str(shared))
        with pytest.warns(UserWarning, match="can be written by other users"):
            keep_cache_private()
        folder = Path(knobs.cache.dir)
        assert folder != shared and folder.stat().st_mode & 0o777 == 0o700
        folder.rmdir()
