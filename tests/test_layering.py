"""Who may import whom: the table of docs/design.md, without circles, compared with every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
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


#: A module -> the modules that it imports.
Graph = Mapping[str, set[str]]


def graph(sources: Mapping[str, str]) -> Graph:
    """Who imports whom; modules are named by their file inside the package, "ops/routing.py"."""
    modules = {_dotted(name): name for name in sources}
    return {
        name: {
            found
            for target in imports(source, ("mixture_of_mamba", *name.split("/")[:-1]))
            if target[0] == "mixture_of_mamba" and (found := _module(target[1:], modules)) != name
            if found is not None
        }
        for name, source in sources.items()
    }


def circle(graph: Graph) -> list[str]:
    """A shortest circle, its first module again at its end; empty where there is none."""
    found = [way for start in sorted(graph) if (way := _way_back(graph, start))]
    return min(found, key=len, default=[])


def _way_back(graph: Graph, start: str) -> list[str]:
    """The shortest way from a module through its imports to itself."""
    waiting, seen = [[start]], set()
    for way in waiting:
        for target in sorted(graph[way[-1]]):
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                waiting.append([*way, target])
    return []


def _dotted(name: str) -> tuple[str, ...]:
    parts = tuple(name.removesuffix(".py").split("/"))
    return parts[:-1] if parts[-1] == "__init__" else parts


def _module(target: tuple[str, ...], modules: Mapping[tuple[str, ...], str]) -> str | None:
    """The file that defines an imported name: the module itself, or the one that has the name."""
    return modules.get(target) or modules.get(target[:-1])


def test_there_is_no_circle() -> None:
    found = circle(graph({name: (ROOT / name).read_text() for name in FILES}))
    assert not found, " -> ".join(found)


def test_imports_inside_the_package_are_relative() -> None:
    absolute = []
    for name in FILES:
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                targets = [node.module or ""]
            else:
                continue
            if any(t.partition(".")[0] == "mixture_of_mamba" for t in targets):
                absolute.append(f"{name}:{node.lineno}")
    assert not absolute


@pytest.mark.parametrize(
    "back",
    [
        "from ..models import MultimodalModel",
        "def f():\n    from ..models.model import MultimodalModel",
        "if TYPE_CHECKING:\n    import mixture_of_mamba.models.model",
    ],
)
def test_a_circle_is_found_and_named(back: str) -> None:
    sources = {
        "models/__init__.py": "from .model import MultimodalModel",
        "models/model.py": "from ..layers.block import MambaBlock",
        "layers/block.py": "from ..ops import scan",
        "ops/__init__.py": "",
        "batch.py": "from .ops import scan",
    }
    assert circle(graph(sources)) == []
    found = circle(graph(sources | {"layers/block.py": back}))
    assert found[0] == found[-1] and "layers/block.py" in found and "models/model.py" in found
    assert "batch.py" not in found
