"""A small prepared data set of each setting, built once for a session of tests."""

from __future__ import annotations

import tempfile
from functools import cache
from typing import Any

import pytest

from mixture_of_mamba.data.build import build
from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.data.config import DataConfig

__all__ = ["bundle", "spoken", "tiny_bundle", "tiny_config"]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mom-tiny-data-")


def tiny_config(setting: str = "chameleon_speech", **changes: Any) -> DataConfig:
    """60 scenes, tiny vocabularies, barely trained tokenizers; `changes` override fields."""
    fields: dict[str, Any] = {
        "setting": setting,
        "scenes": 60,
        "validation_fraction": 0.2,
        "window": 256,
        "text_vocabulary": 384,
        "image_codes": 32,
        "image_steps": 12,
        "speech_units": 32,
        "cache": _folder().name,
    }
    return DataConfig(**{**fields, **changes})


@cache
def tiny_bundle(setting: str = "chameleon_speech") -> DataBundle:
    """The prepared tiny data of a setting; the same object in every test of a process."""
    return build(tiny_config(setting), progress=False)


@pytest.fixture(scope="session", params=["chameleon_speech", "transfusion"])
def bundle(request: pytest.FixtureRequest) -> DataBundle:
    """The tiny data of a discrete and of a continuous setting."""
    return tiny_bundle(request.param)


@pytest.fixture(scope="session")
def spoken() -> DataBundle:
    """The tiny data with text, image and speech."""
    return tiny_bundle("chameleon_speech")
