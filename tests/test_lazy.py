"""The names of the package: imported when used, and known to type checkers and editors before."""

from __future__ import annotations

import ast
import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import mixture_of_mamba as mom
from mixture_of_mamba.lazy import lazy_names

PACKAGE = Path(mom.__file__).parent
LAZY = sorted(
    path.parent.relative_to(PACKAGE).as_posix()
    for path in PACKAGE.rglob("__init__.py")
    if "lazy_names(" in path.read_text()
)
#: What a user starts from, and the names of the contracts.
NAMES = {
    *("MambaBlock", "MambaConfig", "MambaState", "MambaMixer", "ModalityLinear", "PROJECTIONS"),
    *("MultimodalModel", "ModelConfig", "Modality", "ModelOutput", "ModelState", "Batch"),
    *("preset", "freeze", "RunConfig", "train", "load_run", "Generator", "upcycle"),
    *("selective_scan", "causal_conv1d", "modality_linear", "Routing", "use_backend"),
    *("BackendError", "__version__"),
}


def printed(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import mixture_of_mamba, mixture_of_mamba.{};"
        "print(*{{m.partition('.')[0] for m in set(sys.modules) - before}} - "
        "set(sys.stdlib_module_names))"
    )
    for room in ("layers", "models", "training"):
        assert printed(code.format(room)) == "mixture_of_mamba"


def test_the_library_imports_torch_alone() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import mixture_of_mamba as mom;"
        "mom.MultimodalModel, mom.MambaBlock, mom.Batch;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    # (torch.utils.flop_counter takes triton by itself where it is installed)
    heavy = {"transformers", "diffusers", "sklearn", "lightning", "matplotlib", "PIL", "tokenizers"}
    assert not heavy & set(printed(code).split())


def test_every_name_is_there() -> None:
    assert set(mom.__all__) >= NAMES
    assert set(mom.__all__) <= set(dir(mom))
    for name in mom.__all__:
        assert getattr(mom, name) is getattr(mom, name)
    assert callable(mom.train), "no sub-package hides the function"
    with pytest.raises(AttributeError, match="no attribute 'MambaBlok'"):
        mom.MambaBlok  # type: ignore[attr-defined]  # noqa: B018


def test_rooms_are_attributes() -> None:
    assert printed("import mixture_of_mamba as mom; print(mom.interop.load_model.__name__)")
    assert {"interop", "ops", "training"} <= set(dir(mom))


def test_star_import_gives_all_of_it() -> None:
    space: dict[str, object] = {}
    exec("from mixture_of_mamba import *", space)
    assert set(space) - {"__builtins__"} == set(mom.__all__)


def test_classes_can_be_pickled() -> None:
    config = mom.MambaConfig(d_model=16, n_modalities=2)
    assert pickle.loads(pickle.dumps((config, mom.MambaBlock))) == (config, mom.MambaBlock)


@pytest.mark.parametrize("folder", LAZY)
def test_type_checkers_see_what_there_is(folder: str) -> None:
    """The imports under TYPE_CHECKING name the same things, from the same modules."""
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    shown = {
        alias.asname: node.module
        for node in [*tree.body, *block.body]
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
        if alias.asname is not None and node.module is not None
    }
    name = ".".join(("mixture_of_mamba", *Path(folder).parts))
    package = importlib.import_module(name)
    assert set(package.__all__) == set(shown)
    for attribute, module in shown.items():
        home = importlib.import_module(f"{name}.{module}")
        assert getattr(package, attribute) is getattr(home, attribute)


@pytest.mark.slow
def test_strict_type_checking_of_a_program(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(
        "import mixture_of_mamba as mom\n"
        "config = mom.MambaConfig(d_model=16, n_modalities=2)\n"
        "block: mom.MambaBlock = mom.MambaBlock(config)\n"
        "reveal_type(mom.train)\n"
        "mom.MambaBlok\n"
    )
    said, _, _ = api.run(["--strict", "--follow-imports=silent", str(program)])
    lines = [line.partition(": ")[2] for line in said.splitlines()]
    assert 'note: Revealed type is "def (config: mixture_of_mamba.training.config' in lines[0]
    assert 'has no attribute "MambaBlok"' in lines[1]
    assert len(lines) == 3, said


def test_homes_are_imported_once_and_only_when_asked(tmp_path: Path) -> None:
    package = tmp_path / "lazily"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "home.py").write_text("class Thing: pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("lazily")
        get, names, everything = lazy_names("lazily", {"home": ["Thing"]})
        assert everything == ["Thing"] and "Thing" in names()
        assert "lazily.home" not in sys.modules
        assert get("Thing").__module__ == "lazily.home"
        assert vars(module)["Thing"] is get("Thing")
        with pytest.raises(AttributeError, match="'lazily' has no attribute 'other'"):
            get("other")
    finally:
        sys.path.remove(str(tmp_path))
        for name in ("lazily", "lazily.home"):
            sys.modules.pop(name, None)
