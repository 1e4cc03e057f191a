"""A small prepared data set of each setting, built once for a session of tests."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mixture_of_mamba.data.build import build
from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.training.config import RunConfig

__all__ = ["bundle", "own_config", "prepare", "spoken", "tiny_bundle", "tiny_config", "with_data"]

#: Codecs of the settings, barely trained.
CODECS: dict[str, dict[str, Any]] = {
    "text": {"codec": "bpe", "vocabulary": 384},
    "image": {"codec": "vq", "codes": 32, "steps": 12},
    "speech": {"codec": "units", "units": 32},
    "latents": {"codec": "patches"},
}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mom-tiny-data-")


def tiny_config(
    setting: str = "chameleon_speech",
    *,
    text: dict[str, Any] | None = None,
    image: dict[str, Any] | None = None,
    speech: dict[str, Any] | None = None,
    digits: dict[str, Any] | None = None,
    **data: Any,
) -> RunConfig:
    """60 scenes, tiny vocabularies, barely trained tokenizers.

    Args:
        text, image, speech: options of the modalities that override these.
        digits, data: fields of `data.digits` and of `data` that do.
    """
    names = {"text": "text", "image": "latents" if setting == "transfusion" else "image"}
    if setting == "chameleon_speech":
        names["speech"] = "speech"
    changes = {"text": text, "image": image, "speech": speech}
    modalities: dict[str, Any] = {}
    for name, codec in names.items():
        entry, change = CODECS[codec], changes[name] or {}
        if change.get("codec", entry["codec"]) != entry["codec"]:
            entry = {}
        modalities[name] = {**entry, **change}
    fields = {"validation_fraction": 0.2, "window": 256, "cache": _folder().name, **data}
    fields["digits"] = {"scenes": 60, **(digits or {})}
    return RunConfig.from_dict({"modalities": modalities, "data": fields})


def prepare(config: RunConfig) -> DataBundle:
    """The prepared data of a run, without a word."""
    return build(config.data, config.modalities, progress=False)


def with_data(config: RunConfig, **changes: Any) -> RunConfig:
    """The same with other fields of `data`."""
    return replace(config, data=replace(config.data, **changes))


@cache
def tiny_bundle(setting: str = "chameleon_speech") -> DataBundle:
    """The prepared tiny data of a setting; the same object in every test of a process."""
    return prepare(tiny_config(setting))


def own_config(source: Path, cache: Path, **changes: Any) -> RunConfig:
    tiny: dict[str, Any] = {"text": {"vocabulary": 280}, "speech": {"units": 8}}
    if changes.get("setting") != "transfusion":
        tiny["image"] = {"codes": 8, "steps": 2}
    changes = {**tiny, "source": str(source), "cache": str(cache), **changes}
    return tiny_config(**changes)


@pytest.fixture(scope="session", params=["chameleon_speech", "transfusion"])
def bundle(request: pytest.FixtureRequest) -> DataBundle:
    """The tiny data of a discrete and of a continuous setting."""
    return tiny_bundle(request.param)


@pytest.fixture(scope="session")
def spoken() -> DataBundle:
    """The tiny data with text, image and speech."""
    return tiny_bundle("chameleon_speech")
