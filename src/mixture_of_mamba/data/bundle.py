"""Prepared data: tokenizers, packed windows and raw validation examples."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixture_of_mamba.data.examples import Example, load_examples, save_examples
from mixture_of_mamba.data.tokenizers import TokenizerSet
from mixture_of_mamba.data.windows import PackedWindows

__all__ = ["DataBundle"]


@dataclass(frozen=True)
class DataBundle:
    """Everything that training and evaluation need of the data.

    Attributes:
        tokenizers: of the setting's modalities.
        train, validation: packed windows of either split.
        validation_examples: validation documents before the tokenizers.
        facts: what was counted while it was built (documents, characters, left-out documents ...).
    """

    tokenizers: TokenizerSet
    train: PackedWindows
    validation: PackedWindows
    validation_examples: list[Example]
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the bundle into a folder: JSON and safetensors."""
        self.tokenizers.save(folder / "tokenizers")
        self.train.save(folder / "train.safetensors")
        self.validation.save(folder / "validation.safetensors")
        save_examples(self.validation_examples, folder)
        (folder / "facts.json").write_text(json.dumps(self.facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> DataBundle:
        """What `save` wrote."""
        return cls(
            TokenizerSet.load(folder / "tokenizers"),
            PackedWindows.load(folder / "train.safetensors"),
            PackedWindows.load(folder / "validation.safetensors"),
            load_examples(folder),
            json.loads((folder / "facts.json").read_text()),
        )
