"""Who may import whom: the table of docs/design.md, held against every file, and shown to bite."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "mixture_of_mamba"


def table() -> dict[str, set[str]]:
    """Room -> rooms and modules that it may import, itself among them, as docs/design.md says."""
    page = (Path(__file__).parents[1] / "docs" / "design.md").read_text()
    page = page.partition("## The rooms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", page, re.MULTILINE)
    return {room: {room, *re.findall(r"`([\w.]+)`", others)} for room, others in rows}


ALLOWED = table()
# Modules beside the rooms, of the standard library alone.
TOP = {
    *("cache_folders", "extras", "files", "flop_formulas", "lazy"),
    *("private", "processes", "seeding", "startup", "structure"),
}
# Libraries that `import mixture_of_mamba` must not take, and rooms that may not know them at all.
ONLY_LIBRARIES = {"ops": {"torch", "triton", "numpy"}, "layers": {"torch"}}


def imports(source: str, package: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Absolute dotted names that a module imports; `package` is the module's own package."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base += tuple(node.module.split(".")) if node.module else ()
            found += [(*base, alias.name) for alias in node.names]
    return found


def violations(name: str, source: str) -> list[str]:
    """What a file (path inside the package, such as "ops/routing.py") imports against the table."""
    parts = tuple(name.split("/"))
    room = parts[0]
    if room not in ALLOWED:
        return []
    wrong = []
    for target in imports(source, ("mixture_of_mamba", *parts[:-1])):
        if target[0] == "mixture_of_mamba":
            inner = ".".join(target[1:])
            known = ALLOWED[room] | {"_version", "__version__"} | TOP
            if not any(inner == a or inner.startswith(a + ".") for a in known):
                wrong.append(f"{name} imports {inner}")
        elif room in ONLY_LIBRARIES and not _standard(target[0]):
            if target[0] not in ONLY_LIBRARIES[room]:
                wrong.append(f"{name} imports {target[0]}")
            elif target[0] == "triton" and "triton" not in parts[-1]:
                wrong.append(f"{name} imports triton outside a triton backend")
    return wrong


def _standard(top: str) -> bool:
    import sys

    return top in sys.stdlib_module_names


FILES = sorted(str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py"))


def test_the_table_has_every_room() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(ALLOWED) == rooms


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_what_its_room_may(name: str) -> None:
    assert violations(name, (ROOT / name).read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ops/routing.py", "from ..layers import MambaBlock"),
        ("ops/routing.py", "import transformers"),
        ("ops/routing.py", "import triton"),
        ("data/packing.py", "def f():\n    from ..models import ModelConfig"),
        ("layers/block.py", "import mixture_of_mamba.models"),
        ("models/model.py", "from ..data import build"),
        ("training/loop.py", "from ..evaluation.report import write"),
        ("evaluation/flops.py", "from ..cli.main import main"),
    ],
)
def test_the_check_can_fail(name: str, source: str) -> None:
    assert violations(name, source)
