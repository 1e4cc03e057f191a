"""What a folder of tokenizers says about its codecs, read without the codecs themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..files import read_json, verify
from ..structure import structure
from .options import CodecOptions
from .registry import options_of

__all__ = ["FILE", "RecordedCodec", "codec_names", "read_codecs", "record"]

#: Lists the codecs of a folder.
FILE = "tokenizers.json"
# What version 0.1 called the codecs; "latents" says in latents.json which one it is.
_OLD_NAMES = {"pictures": "vq", "units": "units"}


class RecordedCodec(NamedTuple):
    """A codec's name, what it is, and most tokens of its items, where these are never cut."""

    name: str
    options: CodecOptions
    max_length: int | None = None


def record(folder: Path, codecs: Mapping[str, RecordedCodec]) -> None:
    """Write the codecs of a folder, by modality."""
    plain = {
        "version": 2,
        "codecs": {modality: codec.name for modality, codec in codecs.items()},
        "options": {modality: asdict(codec.options) for modality, codec in codecs.items()},
        "max_length": {modality: codec.max_length for modality, codec in codecs.items()},
    }
    (folder / FILE).write_text(json.dumps(plain, indent=1))


def codec_names(folder: Path) -> dict[str, str]:
    """Modality -> name of its codec.

    Raises:
        FileNotFoundError: the folder holds no tokenizers.
        DamagedFile: the list is not what was written.
    """
    return _codecs(folder, _read(folder))


def read_codecs(folder: Path) -> dict[str, RecordedCodec] | None:
    """The codecs by modality; None where only their names were recorded, as by version 0.1.

    Raises:
        FileNotFoundError, DamagedFile: as `codec_names`.
    """
    recorded = _read(folder)
    if "options" not in recorded:
        return None
    options, lengths = recorded["options"], recorded.get("max_length", {})
    return {
        name: RecordedCodec(
            codec,
            structure(options_of(codec), options[name], f"{folder}: {name}"),
            lengths.get(name),
        )
        for name, codec in _codecs(folder, recorded).items()
    }


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / FILE).exists():
        raise FileNotFoundError(
            f"{folder} holds no tokenizers ({FILE} is missing); give the tokenizers folder of a run"
        )
    verify(folder, [FILE])
    found: dict[str, Any] = read_json(folder / FILE)
    return found


def _codecs(folder: Path, recorded: Mapping[str, Any]) -> dict[str, str]:
    if "codecs" in recorded:
        return {"text": "bpe", **recorded["codecs"]}
    codecs = {"text": "bpe"}
    for name, kind in recorded["others"].items():
        if kind == "latents":
            codecs[name] = read_json(folder / name / "latents.json")["source"]
        else:
            codecs[name] = _OLD_NAMES[kind]
    return codecs
