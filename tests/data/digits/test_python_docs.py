"""The embedded real text: documentation, and the library's code where it is asked for."""

from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.data.digits import python_docs
from mixture_of_mamba.data.digits.config import DigitsConfig
from mixture_of_mamba.data.digits.python_docs import python_documentation
from mixture_of_mamba.data.digits.source import _real_text


def test_code_follows_the_documentation_and_has_no_docstrings(monkeypatch):
    monkeypatch.setattr(python_docs, "_LEFT_OUT", {*_every_folder(), "site-packages"})
    documentation = python_documentation()
    both = python_documentation(10_000_000, code=True)
    assert both[: len(documentation)] == documentation
    code = {text for origin, text in both[len(documentation) :] if origin == "ast.py"}
    assert any("def literal_eval(" in text for text in code)
    assert not any("Evaluate an expression node" in text for text in code)  # its docstring
    assert any("\n    def " in text for text in code)  # indentation means something


def test_no_module_is_both_trained_on_and_validated_on():
    texts = _real_text(DataConfig(digits=DigitsConfig(scenes=1000, text_code=True)))
    assert not set(texts["train"]) & set(texts["validation"])
    assert sum(map(len, texts["validation"])) > 10_000


def _every_folder() -> set[str]:
    """Folders of the library, left out so that the test reads its top level only."""
    import sysconfig
    from pathlib import Path

    root = Path(sysconfig.get_path("stdlib"))
    return {path.name for path in root.iterdir() if path.is_dir()}
