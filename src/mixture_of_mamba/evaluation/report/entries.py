"""Entries of examples.json and samples.json: a caption, files by modality, generated texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artefacts import read_artefact, read_current
from ..comparison import Comparison

__all__ = ["Entry", "read_examples", "read_samples"]

#: Keys of version 0.1, where items stood beside the caption -> names of the modalities.
_OLD_NAMES = {"audio": "speech"}


@dataclass(frozen=True)
class Entry:
    """A real example, or what a run made of it.

    Attributes:
        caption: its text.
        items: files by modality.
        texts: generated from the real items, by their modality.
    """

    caption: str
    items: Mapping[str, Path]
    texts: Mapping[str, str]


def read_examples(comparison: Comparison) -> list[Entry]:
    """The real examples; none where they were not saved."""
    folder = comparison.folder / "examples"
    return _entries(folder, read_artefact(folder / "examples.json", list) or [])


def read_samples(comparison: Comparison) -> tuple[dict[str, list[Entry]], list[str]]:
    """By variant, what its run of the first seed made of the examples, in their order; and the
    samples that are not of the runs' present models, as "run: reason"."""
    found, outdated = {}, []
    for variant in comparison.plan.variants:
        run = comparison.run_folder(variant, comparison.seeds[0])
        made, why = read_current(run / "samples" / "samples.json", run)
        if made is not None:
            found[variant] = _entries(run / "samples", made["samples"])
        if why:
            outdated.append(f"{run.name}: {why}")
    return found, outdated


def _entries(folder: Path, plain: Sequence[Mapping[str, Any]]) -> list[Entry]:
    entries = []
    for entry in plain:
        if "items" in entry:
            items, texts = entry["items"], entry.get("texts", {})
        else:
            items, texts = _old(entry)
        files = {name: folder / file for name, file in items.items()}
        entries.append(Entry(entry["caption"], files, texts))
    return entries


def _old(entry: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Items and texts of an entry that version 0.1 wrote."""
    items, texts = {}, {}
    for key, value in entry.items():
        name = key.removeprefix("from_")
        name = _OLD_NAMES.get(name, name)
        if key.startswith("from_"):
            texts[name] = value
        elif key != "caption":
            items[name] = value
    return items, texts
