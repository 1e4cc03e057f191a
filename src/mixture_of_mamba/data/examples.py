"""Untokenized validation documents: what generated items are compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from ..modalities.media import Media
from .digits.facts import Fact

__all__ = ["MAX_EXAMPLES", "Example", "load_examples", "save_examples"]

#: Validation documents that are kept untokenized, at most.
MAX_EXAMPLES = 256


@dataclass(frozen=True)
class Example:
    """One validation document before the tokenizers.

    Attributes:
        items: of each modality that the document has, its first item, as the modality's media
            reads it; of text, all of it.
        facts: what a digit scene shows; empty for a user's own documents.
    """

    items: Mapping[str, Any]
    facts: tuple[Fact, ...] = ()

    @property
    def caption(self) -> str:
        """Its text; empty where it has none."""
        return str(self.items.get("text", ""))

    def is_about(self, name: str) -> bool:
        """Whether an item of a modality can be made from its text: it has one, or nothing but text;
        the caption of a clip is none of a still."""
        return name in self.items or set(self.items) <= {"text"}


def save_examples(examples: Sequence[Example], folder: Path, media: Mapping[str, Media]) -> None:
    """Writes `examples.json` and `examples.safetensors`, each item as its medium keeps it.

    Args:
        media: of each modality.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays, entries = {}, []
    for i, example in enumerate(examples):
        items: dict[str, Any] = {}
        for name, item in example.items.items():
            if isinstance(item, str):
                items[name] = item
            else:
                arrays[f"{name}.{i}"], items[name] = media[name].keep(item)
        entries.append({"items": items, "facts": [list(fact) for fact in example.facts]})
    (folder / "examples.json").write_text(json.dumps(entries))
    save_file(arrays, folder / "examples.safetensors")


def load_examples(folder: Path, media: Mapping[str, Media]) -> list[Example]:
    """What `save_examples` wrote."""
    arrays = load_file(folder / "examples.safetensors")
    examples = []
    for i, entry in enumerate(json.loads((folder / "examples.json").read_text())):
        items: dict[str, Any] = {}
        for name, kept in entry["items"].items():
            if isinstance(kept, str):
                items[name] = kept
            else:
                items[name] = media[name].kept(arrays[f"{name}.{i}"], kept)
        examples.append(Example(items, tuple(Fact(*fact) for fact in entry["facts"])))
    return examples
