"""Atomic writes of files and folders, and digests that show when they were damaged.

A file is written beside its final place, flushed to the disk, and renamed. A sealed folder has a
`SHA256SUMS` of its files, which `sha256sum -c` reads as well. A failed write is a `WriteError`,
whichever library it came from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "PART",
    "SUMS",
    "DamagedFile",
    "WriteError",
    "digest",
    "filling",
    "read_json",
    "read_sums",
    "replacing",
    "verify",
    "why_not_written",
    "write_bytes",
    "write_json",
    "write_text",
    "writing",
]

#: File of digests in a sealed folder: one line "DIGEST  NAME" for each file.
SUMS = "SHA256SUMS"
#: Prefix of the names of unfinished files and folders.
PART = ".part-"

_ELSEWHERE = "choose another place"
#: Error code of the system -> what the user can do.
_REMEDIES = {
    errno.ENOSPC: "make room there (df -h shows what is left), or {elsewhere}",
    errno.EDQUOT: "your quota is used up: make room there, or {elsewhere}",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or {elsewhere}",
    errno.EACCES: "give yourself the right to write there (ls -ld shows it), or {elsewhere}",
    errno.EPERM: "give yourself the right to write there (ls -ld, lsattr), or {elsewhere}",
    errno.EROFS: "{elsewhere}, or have it mounted for writing",
    errno.ENOTDIR: "a file stands where a folder is needed; {elsewhere}",
    errno.EISDIR: "a folder stands where a file is needed; {elsewhere}",
    errno.EEXIST: "a file stands where a folder is needed; {elsewhere}",
    errno.ENOENT: "its folder was moved or removed meanwhile; start again, or {elsewhere}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "the disk reports errors: look after it (dmesg), and {elsewhere}",
    errno.ESTALE: "the network file system lost it: start again, or {elsewhere}",
}


class WriteError(OSError):
    """A file or folder could not be written; says which, why, and what to do."""


class DamagedFile(ValueError):
    """A file no longer holds what was written into it; names the file."""


def why_not_written(error: BaseException) -> tuple[str, str] | None:
    """(reason, remedy) where the system refused a write, whichever library raised; else None.

    Python's own errors carry the system's code; libraries in Rust (safetensors, tokenizers) name it
    in their text, "(os error 28)".
    """
    code = error.errno if isinstance(error, OSError) else None
    if code is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(found[1])
    if code in _REMEDIES:
        return os.strerror(code), _REMEDIES[code]
    inner = error.__context__ if isinstance(error, RuntimeError) else None  # torch.save's own
    return why_not_written(inner) if isinstance(inner, OSError) else None


@contextmanager
def writing(path: str | Path, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Turn the system's errors about `path`, which is written inside the block, into `WriteError`.

    Args:
        path: a file, or a folder with everything below it; errors about other files are unchanged.
        elsewhere: how to choose another place, such as "choose another folder with --out".

    Raises:
        WriteError: the system refused.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        why = why_not_written(error)
        if why is None or not _concerns(error, Path(path)):
            raise
        reason, remedy = why
        raise WriteError(
            f"{path} could not be written ({reason}); {remedy.format(elsewhere=elsewhere)}"
        ) from error


@contextmanager
def replacing(path: str | Path, elsewhere: str = _ELSEWHERE) -> Iterator[Path]:
    """A temporary file to write; it replaces `path` when the block ends, unless the block raises.

    Missing parent folders are made. A link is followed; a device or a pipe is written directly.

    Raises:
        WriteError: it could not be written.
    """
    path = Path(path)
    with writing(path, elsewhere):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        final = Path(os.path.realpath(path))
        final.parent.mkdir(parents=True, exist_ok=True)
        part = final.with_name(f"{PART}{secrets.token_hex(4)}{final.suffix}")
        try:
            yield part
            if final.is_file():
                shutil.copymode(final, part)
            _to_disk(part)
            part.replace(final)
            _to_disk(final.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def filling(
    folder: str | Path, *, anew: bool = False, elsewhere: str = _ELSEWHERE
) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `folder`, sealed, when the block ends, unless it
    raises.

    Args:
        anew: remove what `folder` held; otherwise files of other names stay in it, unsealed.
        elsewhere: see `writing`.

    Raises:
        WriteError: it could not be written.
    """
    folder = Path(folder)
    inside = folder.is_dir() and not anew  # a folder may be writable where its parent is not
    with writing(folder, elsewhere):
        (folder if inside else folder.parent).mkdir(parents=True, exist_ok=True)
        name = f"{PART}{folder.name}-{secrets.token_hex(4)}"
        part = (folder if inside else folder.parent) / name
        part.mkdir()
        try:
            yield part
            _seal(part)
            for path in [*sorted(part.rglob("*")), part]:
                _to_disk(path)
            if inside:
                _move_files(part, folder)
            else:
                _take_place(part, folder)
            _to_disk(folder.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any, indent: int | None = None) -> None:
    """Write a JSON file atomically; NaN is refused, as JSON has none."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as part:
        part.write_bytes(data)


def read_json(path: Path, kind: type = dict) -> Any:
    """The value of a JSON file.

    Args:
        kind: required type of the value, dict or list.

    Raises:
        FileNotFoundError: it does not exist.
        DamagedFile: it is not JSON, or of another type.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is not JSON, or cut short ({error}); make it again") from error
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "list"
        raise DamagedFile(f"{path} holds a {type(value).__name__}; a JSON {wanted} is needed")
    return value


def read_sums(folder: Path) -> dict[str, str]:
    """Digests by file name of a sealed folder; empty for another folder.

    Raises:
        DamagedFile: its SHA256SUMS is damaged itself.
    """
    path = folder / SUMS
    if not path.is_file():
        return {}
    lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
    found = {}
    for line in lines:
        if not (entry := re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)):
            raise DamagedFile(f"{path} is damaged: {line[:90]!r} is no line of it")
        found[entry[2]] = entry[1]
    return found


def verify(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """Compare a folder's files with its SHA256SUMS, if it has one.

    Args:
        names: files to compare; None: all that the list names.

    Returns:
        The digests of the list; empty for a folder without a list.

    Raises:
        DamagedFile: a file is missing or holds something else; names it.
    """
    sums = read_sums(folder)
    for name in sums if names is None else [name for name in names if name in sums]:
        path = folder / name
        if not path.is_file():
            raise DamagedFile(f"{path} is missing, but {SUMS} beside it names it")
        if digest(path) != sums[name]:
            raise DamagedFile(
                f"{path} is damaged: its content is not what {folder / SUMS} says; copy or save it "
                f"again, or, where it was changed on purpose, remove {SUMS}"
            )
    return sums


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / SUMS)
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _move_files(part: Path, folder: Path) -> None:
    """Move the digests first: if the process is killed between two renames, reading shows it."""
    files = [p for p in part.rglob("*") if p.is_file()]
    for path in sorted(files, key=lambda p: (p != part / SUMS, p)):
        final = folder / path.relative_to(part)
        final.parent.mkdir(parents=True, exist_ok=True)
        path.replace(final)
    _to_disk(folder)


def _take_place(part: Path, folder: Path) -> None:
    old = part.with_name(f"{part.name}-old")
    if folder.is_dir():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows cannot flush a folder
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _concerns(error: BaseException, path: Path) -> bool:
    """Whether an error is about a path, something below it, or a folder above it."""
    name = getattr(error, "filename", None)
    if name is None or isinstance(name, int):
        return True
    there, place = (Path(os.path.realpath(os.fsdecode(p))) for p in (name, path))
    return place in (there, *there.parents) or there in place.parents or _beside(there, place)


def _beside(there: Path, place: Path) -> bool:
    """Whether a temporary file or folder lies beside what it replaces."""
    lines = (there, *there.parents)
    return any(p.parent == place.parent and p.name.startswith(PART) for p in lines)
