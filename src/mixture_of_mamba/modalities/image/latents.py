"""Continuous image latents: one interface, several sources.

A `LatentCodec` turns pictures into sequences of vectors of about unit scale, one a token, and back.
`SOURCES` names the sources that `DataConfig.latents` may choose; a new one is a module with a class
that satisfies the protocol, and a line here.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

__all__ = ["SOURCES", "LatentCodec", "load_codec", "make_codec"]

SOURCES: dict[str, tuple[str, str]] = {
    "patches": ("mixture_of_mamba.modalities.image.patches", "Patches"),
    "autoencoder": ("mixture_of_mamba.modalities.image.autoencoder", "Autoencoder"),
}
"""Module and class of each source; imported when it is used."""


@runtime_checkable
class LatentCodec(Protocol):
    """Pictures <-> sequences of latent vectors.

    Attributes:
        source: its name in SOURCES.
        pixels: side of the pictures.
        tokens: vectors in one picture.
        dim: entries of a vector.
    """

    source: str
    pixels: int
    tokens: int
    dim: int

    @classmethod
    def fit(cls, images: np.ndarray, config: Any) -> LatentCodec:
        """A codec for training pictures, (n, s, s, 3) uint8.

        Measures the scale, and trains what there is to train.
        """
        ...

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(n, s, s, 3) uint8 to (n, tokens, dim) float32 of about unit scale."""
        ...

    def decode(self, values: np.ndarray) -> np.ndarray:
        """(n, tokens, dim) to (n, s, s, 3) uint8; values out of range are clipped."""
        ...

    def save(self, folder: Path) -> None:
        """Writes everything that `load` needs, as safetensors and JSON."""
        ...

    @classmethod
    def load(cls, folder: Path) -> LatentCodec:
        """The codec that `save` wrote."""
        ...


def make_codec(images: np.ndarray, config: Any) -> LatentCodec:
    """A codec of the source that `config.latents` names, fitted to training pictures; a folder is
    that of a diffusers AutoencoderKL."""
    source = config.chosen("latents")
    if source not in SOURCES and Path(source).is_dir():
        source = "autoencoder"
    return _codec_class(source).fit(images, config)


def load_codec(source: str, folder: Path) -> LatentCodec:
    """A saved codec of a named source."""
    return _codec_class(source).load(folder)


def _codec_class(source: str) -> type[LatentCodec]:
    if source not in SOURCES:
        raise ValueError(
            f"latents is {source!r}; choose from {', '.join(SOURCES)}, or give the folder of a "
            "diffusers AutoencoderKL"
        )
    module, name = SOURCES[source]
    return cast("type[LatentCodec]", getattr(import_module(module), name))
