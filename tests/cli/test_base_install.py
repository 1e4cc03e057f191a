"""What works with the base dependencies alone: the library, `mom env`, and every command's help.

The environment is a folder of links to what `pip install mixture-of-mamba` brings, and no other
site-packages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from mixture_of_mamba.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


def needed(names: list[str]) -> set[str]:
    """The packages with all that they depend on, of those installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        match = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[(.*?)\])?", waiting.pop())
        assert match
        name, extras = match[1].lower().replace("_", "-"), (match[2] or "").split(",")
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        for line in requirements:
            what, _, marker = line.partition(";")
            extra = re.search(r"extra\s*==\s*['\"](.*?)['\"]", marker)
            if extra is None or extra[1] in extras:
                waiting.append(what.strip())
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process with the base dependencies only."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in needed(project["dependencies"]):
        found = distribution(name)
        for top in {Path(str(file)).parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    path = os.pathsep.join([str(ROOT / "src"), str(site)])
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONPATH": path}


def run(base: dict[str, str], code: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-c", code, *args]  # -S: without site-packages
    return subprocess.run(command, env=base, capture_output=True, text=True, check=False)


MOM = "import sys; from mixture_of_mamba.cli.main import main; sys.exit(main(sys.argv[1:]))"


def test_the_environment_has_no_extras(base: dict[str, str]) -> None:
    names = ["lightning", "transformers", "sklearn", "tokenizers", "matplotlib", "PIL", "pytest"]
    code = f"from importlib.util import find_spec as f; print([n for n in {names} if f(n)])"
    assert run(base, code).stdout.strip() == "[]"


def test_env(base: dict[str, str]) -> None:
    done = run(base, MOM, "env")
    assert done.returncode == 0, done.stderr
    assert re.search(r"lightning +not installed", done.stdout)
    assert "backends on cpu" in done.stdout


def test_help_of_every_command(base: dict[str, str]) -> None:
    code = (
        "import sys\nfrom mixture_of_mamba.cli.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    print('##', name, main([name, '--help']))\n"
    )
    done = run(base, code)
    told = dict(re.findall(r"^## (\S+) (\S+)$", done.stdout, re.M))
    assert told == dict.fromkeys(COMMANDS, "0"), done.stderr
    assert "--train.learning_rate" in done.stdout
    assert "Steps between checkpoints" in done.stdout  # fields are explained


def test_the_library(base: dict[str, str]) -> None:
    code = (
        "import torch, mixture_of_mamba as mom\n"
        "block = mom.MambaBlock(mom.MambaConfig(d_model=16, n_modalities=2))\n"
        "print(tuple(block(torch.randn(1, 5, 16), torch.tensor([[0, 1, 1, 0, 1]])).shape))\n"
    )
    assert run(base, code).stdout.strip() == "(1, 5, 16)"


@pytest.mark.parametrize("argv", [["train", "--out", "run"], ["demo", "--out", "run"]])
def test_what_needs_an_extra_says_which(
    base: dict[str, str], argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(base | {"MOM_CACHE": str(tmp_path / "cache")}, MOM, *argv)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "is not installed; install it with: pip install 'mixture-of-mamba[train]'" in line
    assert not (tmp_path / "run").exists()
