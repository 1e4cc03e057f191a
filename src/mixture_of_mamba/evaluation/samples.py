"""What a trained run makes of validation captions, pictures and voices, saved beside its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.examples import Example
from ..files import filling
from ..generation import Generator
from ..modalities.image.files import png_bytes
from ..modalities.speech.files import wav_bytes

__all__ = ["save_examples", "save_samples"]


def save_examples(examples: Sequence[Example], folder: Path) -> None:
    """Real validation examples for the report: examples.json, PNG and WAV files."""
    entries, files = [], {}
    for i, example in enumerate(examples):
        entry: dict[str, Any] = {"caption": example.caption}
        if "image" in example.items:
            entry["image"] = f"{i:02}.png"
            files[entry["image"]] = png_bytes(example.items["image"])
        if "speech" in example.items:
            entry["audio"] = f"{i:02}.wav"
            files[entry["audio"]] = wav_bytes(*example.items["speech"])
        entries.append(entry)
    _write(folder, "examples.json", entries, files)


def save_samples(
    generator: Generator,
    examples: Sequence[Example],
    folder: Path,
    *,
    checkpoint: Mapping[str, Any],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Generate from each example, in every direction that the model has.

    Args:
        generator: of a trained run.
        examples: validation documents; those without a picture or a voice give fewer samples.
        folder: gets samples.json, and a PNG and a WAV file per caption.
        checkpoint: that the generator's model is, see artefacts.checkpoint_of.
        seed: of the sampling; example i has seed + i.

    Returns:
        "samples" of samples.json, beside the "checkpoint": per example its caption, the names of
        the files generated from it ("image", "audio"), and the captions generated from its real
        picture and voice ("from_image", "from_audio").
    """
    names = generator.tokenizers.names
    captions = [example.caption for example in examples]
    entries: list[dict[str, Any]] = [{"caption": caption} for caption in captions]
    files: dict[str, bytes] = {}
    if "image" in names:
        for i, made in enumerate(generator.to_image(captions, seed=seed)):
            entries[i]["image"] = f"{i:02}.png"
            files[f"{i:02}.png"] = png_bytes(made)
        seen = {i: e.items["image"] for i, e in enumerate(examples) if "image" in e.items}
        texts = generator.to_text(images=list(seen.values()), seed=seed) if seen else []
        for i, text in zip(seen, texts, strict=True):
            entries[i]["from_image"] = text
    if "speech" in names:
        for i, (wave, rate) in enumerate(generator.to_speech(captions, seed=seed)):
            if len(wave):
                entries[i]["audio"] = f"{i:02}.wav"
                files[f"{i:02}.wav"] = wav_bytes(wave, rate)
        heard = {i: e.items["speech"] for i, e in enumerate(examples) if "speech" in e.items}
        texts = generator.to_text(speech=list(heard.values()), seed=seed) if heard else []
        for i, text in zip(heard, texts, strict=True):
            entries[i]["from_audio"] = text
    plain = {"checkpoint": dict(checkpoint), "samples": entries}
    _write(folder, "samples.json", plain, files)
    return entries


def _write(
    folder: Path, name: str, plain: dict[str, Any] | list[Any], files: Mapping[str, bytes]
) -> None:
    """All of it or nothing: no list of files that are not there, none of another model."""
    with filling(folder, anew=True) as part:
        for file, data in files.items():
            (part / file).write_bytes(data)
        (part / name).write_text(json.dumps(plain, indent=1) + "\n")
