"""What pip installs has the presets, the kernels' sources and the report's templates, as files.

The presets lie in the package; a checkout's configs/ is a link to them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mixture_of_mamba"
#: Files of the package that are no Python.
DATA = ("configs/*.yaml", "ops/csrc/*.cpp", "ops/csrc/*.h", "evaluation/templates/*", "py.typed")


def test_a_checkout_shows_the_presets_at_its_top() -> None:
    assert (ROOT / "configs" / "chameleon.yaml").is_file()
    assert (ROOT / "configs").resolve() == PACKAGE / "configs"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without its link, as systems without links have it."""
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(source: Path, kind: str, out: Path) -> Path:
    """The archive that `pip install` or a release builds; kind is "wheel" or "sdist"."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    return archive


def expected() -> set[str]:
    python = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py")}
    found = {p.relative_to(PACKAGE).as_posix() for glob in DATA for p in PACKAGE.glob(glob)}
    assert "configs/chameleon.yaml" in found and "ops/csrc/scan.h" in found
    return python | found


@pytest.mark.slow
def test_wheel(source: Path, tmp_path: Path) -> None:
    archive = zipfile.ZipFile(built(source, "wheel", tmp_path))
    inside = {name.partition("/")[2] for name in archive.namelist() if "dist-info" not in name}
    assert expected() <= inside
    assert not any(name.endswith(".py") and "/" not in name for name in archive.namelist()), (
        "the package is the only thing that is installed"
    )
    preset = (PACKAGE / "configs" / "demo.yaml").read_bytes()
    assert archive.read("mixture_of_mamba/configs/demo.yaml") == preset


@pytest.mark.slow
def test_source_archive(source: Path, tmp_path: Path) -> None:
    with tarfile.open(built(source, "sdist", tmp_path)) as archive:
        members = {m.name.partition("/src/mixture_of_mamba/")[2]: m for m in archive.getmembers()}
    assert expected() <= set(members)
    assert all(m.isreg() or m.isdir() for m in members.values())
