"""Prepared data: tokenizers, packed windows and raw validation examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_json, read_sums
from ..modalities.tokenizer_set import TokenizerSet
from .cache import content_hash
from .examples import Example, load_examples, save_examples
from .windows import PackedWindows

__all__ = ["DataBundle"]


@dataclass(frozen=True)
class DataBundle:
    """Everything that training and evaluation need of the data.

    Attributes:
        tokenizers: of the run's modalities.
        train, validation: packed windows of either split.
        validation_examples: validation documents before the tokenizers.
        digests: of the windows and of each tokenizer, {what: digest}, where it was read from a
            folder; a run keeps them.
        made_from: what the data depends on, {field of the cache's key: its value, or a digest},
            and {"PACKAGE version": it}.
        facts: what was counted while it was built (documents, characters, left-out documents ...).
    """

    tokenizers: TokenizerSet
    train: PackedWindows
    validation: PackedWindows
    validation_examples: list[Example]
    facts: dict[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    made_from: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the bundle into a folder: JSON and safetensors."""
        self.tokenizers.save(folder / "tokenizers")
        self.train.save(folder / "train.safetensors")
        self.validation.save(folder / "validation.safetensors")
        save_examples(self.validation_examples, folder, self.tokenizers.media)
        (folder / "facts.json").write_text(json.dumps(self.facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> DataBundle:
        """What `save` wrote."""
        tokenizers = TokenizerSet.load(folder / "tokenizers")
        return cls(
            tokenizers,
            PackedWindows.load(folder / "train.safetensors"),
            PackedWindows.load(folder / "validation.safetensors"),
            load_examples(folder, tokenizers.media),
            read_json(folder / "facts.json"),
            _digests(read_sums(folder), tokenizers),
            _made_from(folder / "key.json"),
        )


def _digests(sums: Mapping[str, str], tokenizers: TokenizerSet) -> dict[str, str]:
    """Of what training reads. Not of JSON files: another version of a library may write the same
    tokenizer with other fields."""
    if not sums:
        return {}
    found = {f"{split} windows": sums[f"{split}.safetensors"] for split in ("train", "validation")}
    found["text tokenizer"] = content_hash(tokenizers.text.vocabulary())
    for name in tokenizers.non_text:
        place = f"tokenizers/{name}/"
        mine = {f: d for f, d in sums.items() if f.startswith(place) and f.endswith(".safetensors")}
        found[f"{name} tokenizer"] = content_hash(mine)
    return found


def _made_from(path: Path) -> dict[str, Any]:
    """Short values as they are; lists of documents by their digest."""
    key = read_json(path) if path.is_file() else {}
    key |= {f"{name} version": found for name, found in key.pop("versions", {}).items()}
    return {k: v if len(str(v)) <= 80 else content_hash({k: v}) for k, v in key.items()}
