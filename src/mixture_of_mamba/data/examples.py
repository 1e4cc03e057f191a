"""Validation documents in the raw: what generated text, pictures and sound are held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from .digits.facts import Fact

__all__ = ["Example", "load_examples", "save_examples"]


@dataclass(frozen=True)
class Example:
    """One validation document before the tokenizers.

    Attributes:
        caption: its text.
        facts: what the scene shows; empty for a user's own documents.
        image: (s, s, 3) uint8, or None where the document has none.
        audio: (samples,) float32 in -1..1, or None.
        sample_rate: samples a second of `audio`.
    """

    caption: str
    facts: tuple[Fact, ...]
    image: np.ndarray | None
    audio: np.ndarray | None = None
    sample_rate: int | None = None


def save_examples(examples: Sequence[Example], folder: Path) -> None:
    """Writes `examples.json` and `examples.safetensors`; sound is kept as 16-bit samples."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, entries = {}, []
    for i, example in enumerate(examples):
        entries.append(
            {
                "caption": example.caption,
                "facts": [list(fact) for fact in example.facts],
                "sample_rate": example.sample_rate,
            }
        )
        if example.image is not None:
            arrays[f"image.{i}"] = np.ascontiguousarray(example.image)
        if example.audio is not None:
            arrays[f"audio.{i}"] = (np.clip(example.audio, -1, 1) * 32767).astype(np.int16)
    (folder / "examples.json").write_text(json.dumps(entries))
    save_file(arrays, folder / "examples.safetensors")


def load_examples(folder: Path) -> list[Example]:
    """What `save_examples` wrote."""
    arrays = load_file(folder / "examples.safetensors")
    examples = []
    for i, entry in enumerate(json.loads((folder / "examples.json").read_text())):
        audio = arrays.get(f"audio.{i}")
        examples.append(
            Example(
                caption=entry["caption"],
                facts=tuple(Fact(*fact) for fact in entry["facts"]),
                image=arrays.get(f"image.{i}"),
                audio=None if audio is None else audio.astype(np.float32) / 32767,
                sample_rate=entry["sample_rate"],
            )
        )
    return examples
