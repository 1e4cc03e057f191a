"""Files are complete or absent, damage is named, and a refusal of the system says what helps."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mixture_of_mamba.files import (
    SUMS,
    DamagedFile,
    WriteError,
    filling,
    read_json,
    replacing,
    verify,
    write_bytes,
    write_json,
    write_text,
    writing,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("ne")
        assert path.read_text() == "old"
        raise RuntimeError
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])
    write_text(path, "n\N{LATIN SMALL LETTER E WITH DIAERESIS}w")
    assert path.read_bytes() == "n\u00ebw".encode() and names(tmp_path) == ["a.txt"]


def test_rights_links_and_long_names_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_text(link, "new")
    assert link.is_symlink() and path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_text(tmp_path / ("x" * 250 + ".txt"), "fits")
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "fresh", "")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640, "as open() would make it"


def test_devices_are_written_and_not_replaced() -> None:
    write_text("/dev/null", "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    with pytest.raises(WriteError) as error:
        write_bytes("/dev/full", bytes(1 << 20))
    assert str(error.value) == (
        "/dev/full could not be written (No space left on device); make room there (df -h shows "
        "what is left), or choose another place"
    )


@pytest.mark.parametrize(
    ("code", "helps"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "your quota is used up"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "the right to write there"),
        (errno.EROFS, "take /tmp, or have it mounted for writing"),
        (errno.EIO, "look after it (dmesg)"),
    ],
)
def test_refusals_say_what_helps(code: int, helps: str) -> None:
    with pytest.raises(WriteError) as error, writing("place", "take /tmp"):
        raise OSError(code, os.strerror(code))
    message = str(error.value)
    assert message.startswith(f"place could not be written ({os.strerror(code)}); ")
    assert helps in message


def test_errors_of_other_files_and_of_other_kinds_pass(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as other, writing(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/home/you/document.txt")
    assert other.value.filename == "/home/you/document.txt"
    for kind in (ValueError("a bug"), SafetensorError("invalid header"), OSError("no code")):
        with pytest.raises(type(kind)) as same, writing(tmp_path):
            raise kind
        assert same.value is kind


def test_a_library_in_rust_says_the_same(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"a/model could not be written \(No such file"):  # noqa: SIM117
        with writing(tmp_path / "a" / "model"):
            save_file({"x": torch.zeros(3)}, tmp_path / "a" / "model")


def test_a_folder_appears_whole_and_is_sealed(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "new"
    with pytest.raises(RuntimeError), filling(folder) as part:
        (part / "a").write_text("1")
        raise RuntimeError
    assert names(tmp_path / "deep") == []
    with filling(folder) as part:
        (part / "sub").mkdir()
        (part / "sub" / "a b").write_text("1")
        (part / "z").write_bytes(bytes(range(256)))
        assert not folder.exists()
    assert names(tmp_path / "deep") == ["new"] and names(folder) == [SUMS, "sub", "z"]
    check = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True)
    assert check.stdout.splitlines() == ["sub/a b: OK", "z: OK"]
    assert set(verify(folder)) == {"sub/a b", "z"}


def test_other_files_of_a_folder_stay_unless_it_is_made_anew(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / "z").write_text("old")
    with filling(tmp_path) as part:
        (part / "z").write_text("new")
        assert (tmp_path / "z").read_text() == "old"
    assert names(tmp_path) == [SUMS, "a", "z"] and list(verify(tmp_path)) == ["z"]
    folder = tmp_path / "inner"
    for text in ("one", "two"):
        with filling(folder, anew=True) as part:
            (part / text).write_text(text)
    assert names(folder) == [SUMS, "two"] and names(tmp_path) == [SUMS, "a", "inner", "z"]


def test_a_kill_between_two_renames_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder that is written over: no mixture of old and new files passes for whole."""

    def save(text: str) -> None:
        with filling(tmp_path) as part:
            (part / "config").write_text(text)
            (part / "weights").write_text(text)

    def dies(path: Path, to: Path) -> Path:
        if len(done) == 2:
            raise SystemExit
        done.append(path)
        return real(path, to)

    save("old")
    real, done = Path.replace, list[Path]()
    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(SystemExit):
        save("new")
    assert [(tmp_path / n).read_text() for n in ("config", "weights")] == ["new", "old"]
    with pytest.raises(DamagedFile, match="weights is damaged"):
        verify(tmp_path)


@pytest.mark.parametrize("place", [0, 500, 999])
def test_one_flipped_bit_is_found_and_named(tmp_path: Path, place: int) -> None:
    with filling(tmp_path / "f") as part:
        for name in ("a", "b"):
            (part / name).write_bytes(bytes(1000))
    data = bytearray(1000)
    data[place] = 1
    (tmp_path / "f" / "b").write_bytes(data)
    with pytest.raises(DamagedFile, match=f"^{tmp_path / 'f' / 'b'} is damaged.*remove {SUMS}"):
        verify(tmp_path / "f")
    verify(tmp_path / "f", ["a"])
    (tmp_path / "f" / "b").unlink()
    with pytest.raises(DamagedFile, match="b is missing"):
        verify(tmp_path / "f")
    (tmp_path / "f" / SUMS).write_text("garbage")
    with pytest.raises(DamagedFile, match="is no line of it"):
        verify(tmp_path / "f")
    (tmp_path / "f" / SUMS).unlink()
    assert verify(tmp_path / "f") == {}


def test_json_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2]})
    assert read_json(path) == {"a": [1, 2]}
    path.write_text(path.read_text()[:8])
    with pytest.raises(DamagedFile, match=r"a\.json is not JSON, or cut short"):
        read_json(path)
    path.write_text("[]")
    with pytest.raises(DamagedFile, match="holds a list; a JSON object is needed"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_text() == "[]"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="to lose rights")
def test_lost_rights_are_said_and_what_was_there_stays(tmp_path: Path) -> None:
    """As another user, in a folder of mine that everybody may read."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == 0 and folder != Path(folder.root):
            folder.chmod(folder.stat().st_mode | 0o055)
    write_text(tmp_path / "a", "old")
    read, write = os.pipe()
    if not (child := os.fork()):
        os.setuid(65534)
        try:
            write_text(tmp_path / "a", "new")
        except WriteError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        assert said.read() == (
            f"{tmp_path / 'a'} could not be written (Permission denied); give yourself the right "
            "to write there (ls -ld shows it), or choose another place"
        )
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"
