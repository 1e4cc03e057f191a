"""What a trained run makes of validation documents, saved beside its model for the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.examples import Example
from ..files import filling
from ..generation import Generator
from ..generation.prompts import prompts_of
from ..modalities import Media

__all__ = ["save_examples", "save_samples"]


def save_examples(examples: Sequence[Example], folder: Path, media: Mapping[str, Media]) -> None:
    """Real validation examples for the report: examples.json, and a file for each item.

    Args:
        media: of the modalities other than text that are shown.
    """
    entries, files = [], _Files()
    for i, example in enumerate(examples):
        items = {
            name: file
            for name, medium in media.items()
            if name in example.items and (file := files.add(i, name, medium, example.items[name]))
        }
        entries.append({"caption": example.caption, "items": items})
    files.write(folder, "examples.json", entries)


def save_samples(
    generator: Generator,
    examples: Sequence[Example],
    folder: Path,
    *,
    checkpoint: Mapping[str, Any],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Generate from the text of each example the modalities that it has, or all where it has none,
    and text from its items.

    Args:
        generator: of a trained run.
        examples: validation documents; those without an item of a modality give fewer samples.
        folder: gets samples.json, and a file for each generated item.
        checkpoint: that the generator's model is, see artefacts.checkpoint_of.
        seed: of the sampling; example i has seed + i.

    Returns:
        "samples" of samples.json, beside the "checkpoint": per example its "caption", the files of
        the "items" generated from it by modality, and the "texts" generated from its real items.
    """
    tokenizers = generator.tokenizers
    text = tokenizers.names[tokenizers.text_id]
    captions = prompts_of({text: [example.caption for example in examples]})
    entries: list[dict[str, Any]] = [
        {"caption": example.caption, "items": {}, "texts": {}} for example in examples
    ]
    files = _Files()
    for name, codec in tokenizers.non_text.items():
        if name in tokenizers.one_way:
            wanted, generated = [], []
        else:
            wanted = [i for i, example in enumerate(examples) if example.is_about(name)]
            prompts, seeds = [captions[i] for i in wanted], [seed + i for i in wanted]
            generated = generator.to(name, prompts, seed=seeds)
        for i, item in zip(wanted, generated, strict=True):
            if file := files.add(i, name, codec.media, item):
                entries[i]["items"][name] = file
        real = {i: e.items[name] for i, e in enumerate(examples) if name in e.items}
        if not real:
            continue
        prompts = prompts_of({name: list(real.values())})
        for i, made in zip(real, generator.to(text, prompts, seed=seed), strict=True):
            entries[i]["texts"][name] = made
    files.write(folder, "samples.json", {"checkpoint": dict(checkpoint), "samples": entries})
    return entries


class _Files:
    """Files of items that are written together with the list that names them."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    def add(self, i: int, name: str, media: Media, item: Any) -> str | None:
        """The name of an item's file; None for an item that its medium refuses, such as an empty
        utterance."""
        try:
            suffix, content = media.show(media.check(item, f"the {name} of example {i}"))
        except ValueError:
            return None
        file = f"{i:02}{suffix}"
        if file in self._content:  # of another modality
            file = f"{i:02}-{name}{suffix}"
        self._content[file] = content
        return file

    def write(self, folder: Path, name: str, plain: dict[str, Any] | list[Any]) -> None:
        """All of it or nothing: no list of files that are not there, none of another model."""
        with filling(folder, anew=True) as part:
            for file, data in self._content.items():
                (part / file).write_bytes(data)
            (part / name).write_text(json.dumps(plain, indent=1) + "\n")
