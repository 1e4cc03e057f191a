"""Prepared data is read only from folders that this user owns and nobody else can write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mixture_of_mamba.data.cache import build_or_load

as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="two users need root"
)


def make(folder: Path) -> None:
    (folder / "data").write_text("ours")


def test_cache_is_made_for_this_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        entry = build_or_load(tmp_path / "cache", "kind", {"a": 1}, make)
    finally:
        os.umask(before)
    assert not (entry.stat().st_mode | entry.parent.stat().st_mode) & 0o022
    assert build_or_load(tmp_path / "cache", "kind", {"a": 1}, make) == entry


@pytest.mark.parametrize("which", ["cache", "entry"])
def test_folders_that_others_can_write_are_refused(tmp_path: Path, which: str) -> None:
    entry = build_or_load(tmp_path / "cache", "kind", {"a": 1}, make)
    changed = entry if which == "entry" else entry.parent
    changed.chmod(0o777)
    with pytest.raises(OSError, match=r"can be written by other users.*chmod go-w .*MOM_CACHE"):
        build_or_load(tmp_path / "cache", "kind", {"a": 1}, make)
    changed.chmod(0o755)
    assert build_or_load(tmp_path / "cache", "kind", {"a": 1}, make) == entry


@as_root
@pytest.mark.parametrize("which", ["cache", "entry"])
def test_folders_of_another_user_are_refused(tmp_path: Path, which: str) -> None:
    entry = build_or_load(tmp_path / "cache", "kind", {"a": 1}, make)
    os.chown(entry if which == "entry" else entry.parent, 65534, 65534)
    with pytest.raises(OSError, match=r"belongs to user 65534, and this is user 0.*MOM_CACHE"):
        build_or_load(tmp_path / "cache", "kind", {"a": 1}, make)
