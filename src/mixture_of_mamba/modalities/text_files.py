"""Text tokenizers that people have: a tokenizer.json, or what transformers makes of a folder's
vocabulary files. Code that a folder brings is not run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..extras import needs
from ..files import read_json
from .pretrained import find, loading

__all__ = ["read_tokenizer", "tokenizer_files"]

_WHOLE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
#: Names of files that hold a vocabulary, of which transformers makes a tokenizer.
_VOCABULARIES = ("vocab.json", "vocab.txt", "*.model", "*.spm", "*.tiktoken", "tekken.json")
#: Of files that say how it is used: config.json names the class where no other does.
_BESIDE = (_CONFIG, "special_tokens_map.json", "added_tokens.json", "merges.txt", "config.json")


def tokenizer_files(given: str | Path) -> list[Path]:
    """The files that a tokenizer is read from: the tokenizer.json alone, where there is one.

    Args:
        given: such a file, a folder, or a hub id; of the hub only such files are fetched.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it needs code of its folder.
    """
    if Path(given).is_file():
        return [Path(given)]
    folder = find(given, (_WHOLE, *_VOCABULARIES, *_BESIDE))
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    vocabularies = [file for name in _VOCABULARIES for file in folder.glob(name)]
    if not vocabularies:
        raise FileNotFoundError(
            f"{folder / _WHOLE} does not exist, nor does another vocabulary "
            f"({', '.join(_VOCABULARIES)}); a text tokenizer is a tokenizer.json of the "
            "`tokenizers` library (AutoTokenizer's save_pretrained writes one), its folder, or "
            "its id on the hub"
        )
    config = folder / _CONFIG
    if config.is_file() and "auto_map" in read_json(config):
        raise ValueError(
            f"{config}: the tokenizer needs code of its own folder (auto_map), which is never "
            f"run; give a tokenizer of a class that transformers has, or a {_WHOLE}"
        )
    return sorted({*vocabularies, *(folder / n for n in _BESIDE if (folder / n).is_file())})


def read_tokenizer(given: str | Path) -> tuple[Any, Path]:
    """A `tokenizers.Tokenizer`, and the file or folder that it is of.

    Args:
        given: as `tokenizer_files` takes it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of a class that the library `tokenizers` cannot compute.
        ImportError: a package that reads such a vocabulary is missing.
    """
    files = tokenizer_files(given)
    if files[0].name == _WHOLE or Path(given).is_file():
        with needs("the text tokenizer", "train"):
            from tokenizers import Tokenizer
        try:
            return Tokenizer.from_file(str(files[0])), files[0]
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{files[0]} is no tokenizer: {error}") from error
    return _by_transformers(files), files[0].parent


def _by_transformers(files: list[Path]) -> Any:
    folder = files[0].parent
    for file in files:
        # transformers would try one after the other, and name the wrong package
        if file.suffix == ".model" and not (find_spec("sentencepiece") or find_spec("tiktoken")):
            raise ImportError(
                f"reading {file} needs the package 'sentencepiece', which is not installed "
                "('tiktoken' if it is one of its files); install it with: pip install "
                f"sentencepiece; or give a {_WHOLE}"
            )
    with needs("the text tokenizer", "train"):
        from transformers import AutoTokenizer
    with loading(folder, "tokenizer"):
        found = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    tokenizer = getattr(found, "backend_tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            f"{folder} holds a {type(found).__name__}, which the library `tokenizers` cannot "
            f"compute; give a tokenizer that has a {_WHOLE}, such as those of Llama, Qwen or GPT-2"
        )
    return tokenizer
