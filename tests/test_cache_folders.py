"""One cache root and one prefix of environment variables; names of earlier versions still count."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mixture_of_mamba.cache_folders import cache_folder, kernels_off
from mixture_of_mamba.private import check_folder

VARIABLES = ("MOM_CACHE", "MOM_NATIVE", "MIXTURE_OF_MAMBA_CACHE", "MIXTURE_OF_MAMBA_NATIVE")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have other cache folders")
def test_the_default_is_one_folder_of_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    for kind in ("native", "data", "measured"):
        assert cache_folder(kind) == Path("/home/someone/.cache/mixture-of-mamba", kind)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder("data") == Path("/var/cache/mixture-of-mamba/data")


def test_the_root_and_one_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOM_CACHE", "~/mine")
    assert cache_folder("native") == Path.home() / "mine" / "native"
    assert cache_folder("data", "other") == Path("other")


def test_the_old_variable_is_the_folder_of_kernels_and_measurements(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MOM_CACHE", "/data")
    monkeypatch.setenv("MIXTURE_OF_MAMBA_CACHE", "/kernels")
    assert cache_folder("native") == cache_folder("measured") == Path("/kernels")
    assert cache_folder("data") == Path("/data/data")


@pytest.mark.parametrize("name", ["MOM_NATIVE", "MIXTURE_OF_MAMBA_NATIVE"])
def test_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert kernels_off() is None
    monkeypatch.setenv(name, "1")
    assert kernels_off() is None
    monkeypatch.setenv(name, "0")
    assert kernels_off() == f"{name}=0"


def test_folders_that_are_made_are_private_at_every_level(tmp_path: Path) -> None:
    before = os.umask(0o002)  # lets the group write
    try:
        check_folder(tmp_path / "root" / "native")
    finally:
        os.umask(before)
    if hasattr(os, "geteuid"):
        for folder in (tmp_path / "root", tmp_path / "root" / "native"):
            assert folder.stat().st_mode & 0o777 == 0o700
