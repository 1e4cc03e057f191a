"""A continuous image modality: a `LatentCodec` that speaks as a tokenizer does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .latents import LatentCodec, load_codec

__all__ = ["LatentImages"]


class LatentImages:
    """Pictures <-> (tokens, dim) float32 values; `size` is the width of a vector."""

    kind = "continuous"

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.size = codec.dim
        self.pixels = codec.pixels
        self.fixed_length = codec.tokens

    def encode(self, images: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Values of (s, s, 3) uint8 pictures."""
        return list(self.codec.encode(np.stack(list(images)))) if len(images) else []

    def decode(self, values: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Pictures (s, s, 3) uint8 of values."""
        return list(self.codec.decode(np.stack(list(values)))) if len(values) else []

    def save(self, folder: Path) -> None:
        """Writes `latents.json` and what the codec needs."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "latents.json").write_text(json.dumps({"source": self.codec.source}))
        self.codec.save(folder)

    @classmethod
    def load(cls, folder: Path) -> LatentImages:
        source = json.loads((folder / "latents.json").read_text())["source"]
        return cls(load_codec(source, folder))
