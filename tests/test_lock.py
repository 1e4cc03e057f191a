"""The lock holds all that pyproject.toml asks for, within its bounds, every file with its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = sorted(ROOT.glob("requirements*.lock"))


def entries(path: Path) -> list[tuple[Requirement, list[str]]]:
    found = re.findall(r"^[^#\s].*(?:\n[ \t].*)*", path.read_text(), re.MULTILINE)
    assert found, path
    return [
        (Requirement(entry.split("\\\n")[0]), re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        for entry in found
    ]


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    texts = [*project["dependencies"], *(text for extra in extras for text in extra)]
    return [r for r in map(Requirement, texts) if r.name != project["name"]]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_entry_is_one_version_with_hashes(path: Path) -> None:
    for requirement, hashes in entries(path):
        (pin,) = requirement.specifier
        assert pin.operator == "==" and hashes, str(requirement)


def test_every_requirement_is_locked_within_its_bounds() -> None:
    locked: dict[str, list[str]] = {}
    for requirement, _ in entries(ROOT / "requirements.lock"):
        (pin,) = requirement.specifier
        locked.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    assert "setuptools" in locked  # the project is built without build isolation
    for requirement in asked():
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement} is not in requirements.lock; run make lock"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement}: {version} is locked"


def test_both_builds_of_torch_are_locked() -> None:
    (cpu,) = entries(ROOT / "requirements-cpu.lock")
    (torch,) = (e for e in entries(ROOT / "requirements.lock") if e[0].name == "torch")
    assert set(cpu[1]) < set(torch[1])
    assert str(cpu[0].specifier) == f"{torch[0].specifier}+cpu"


def test_the_cuda_build_s_packages_are_not_forced_on_everybody() -> None:
    names = {r.name for r, _ in entries(ROOT / "requirements.lock")}
    cuda = {r.name for r, _ in entries(ROOT / "requirements-cuda.lock")}
    assert cuda and not names & cuda
    assert not [name for name in names if name.startswith("nvidia-")]
