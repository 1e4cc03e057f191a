"""The files of a user's folder: what may be a document, and what is none and is named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FolderFiles", "counted", "files_below"]

_OURS = (
    ("config.yaml", "checkpoints"),
    ("config.yaml", "metrics.jsonl"),
    ("plan.json", "configs"),
    ("tokenizers.json",),
    ("key.json",),
)
"""Names that stand together in runs, comparisons, tokenizers and caches of prepared data."""
_HIDDEN = re.compile(r"^\.|~$|^~\$|^#.*#$|^__MACOSX$|^__pycache__$")


@dataclass
class FolderFiles:
    """What `files_below` found.

    Attributes:
        files: in a fixed order.
        hidden: hidden files and folders, and editors' backup copies.
        runs: folders that this library wrote.
        unreadable: folders that could not be listed, with the reason.
    """

    files: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line for each kind of thing that is left out."""
        kinds = (
            ("hidden or backup", self.hidden),
            ("folders that hold runs or prepared data", self.runs),
        )
        return [f"not read: {counted(paths, what)}" for what, paths in kinds if paths]


def files_below(folder: Path) -> FolderFiles:
    """All files of a folder and its sub-folders, linked ones too; each real folder once."""
    found = FolderFiles()
    root = os.path.realpath(folder)
    seen = {root}
    for here, folders, names in os.walk(folder, followlinks=True, onerror=found.unreadable.append):
        kept = []
        for name in sorted(folders):
            path = Path(here, name)
            real = os.path.realpath(path)
            if _HIDDEN.search(name):
                found.hidden.append(path)
            elif _is_ours(path):
                found.runs.append(path)
            elif real not in seen and not (path.is_symlink() and _inside(real, root)):
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        for name in names:
            path = Path(here, name)
            (found.hidden if _HIDDEN.search(name) else found.files).append(path)
    found.files.sort()
    found.hidden.sort()
    return found


def counted(paths: Iterable[Path], what: str) -> str:
    """ "12 WHAT, first: PATH"."""
    paths = list(paths)
    return f"{len(paths):,} {what}, {'first' if len(paths) > 1 else 'namely'}: {paths[0]}"


def _inside(path: str, root: str) -> bool:
    """Whether a link's target is met below the root anyway."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _is_ours(folder: Path) -> bool:
    return any(all(os.path.lexists(folder / name) for name in names) for names in _OURS)
