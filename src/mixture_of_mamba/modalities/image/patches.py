"""Raw patches as latents: pixels of a square patch as one vector, scaled to unit variance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .scan_order import patch_order

__all__ = ["Patches"]


class Patches:
    """(value - mean) / std of the patch's pixels, with one mean and one std per colour channel.

    Exactly invertible: decode(encode(x)) is x.
    """

    source = "patches"

    def __init__(
        self, pixels: int, patch: int, mean: np.ndarray, std: np.ndarray, order: str = "rows"
    ) -> None:
        """mean, std: (3,) float32, of pixels in 0..1; order: see patch_order."""
        if pixels % patch:
            raise ValueError(
                f"a patch of {patch} pixels does not divide a picture of {pixels}; choose a patch "
                "that does"
            )
        self.pixels, self.patch = pixels, patch
        self.tokens = (pixels // patch) ** 2
        self.dim = 3 * patch**2
        self._mean, self._std = mean, std
        self.order = order
        self._order = patch_order(pixels // patch, order)

    @classmethod
    def fit(cls, images: np.ndarray, config: Any) -> Patches:
        """Measures mean and deviation on training pictures (n, s, s, 3) uint8."""
        x = images[:: max(1, len(images) // 4096)].astype(np.float64) / 255
        std = np.maximum(x.std((0, 1, 2)), 1e-3).astype(np.float32)
        return cls(
            images.shape[1],
            config.chosen("patch"),
            x.mean((0, 1, 2)).astype(np.float32),
            std,
            config.chosen("patch_order"),
        )

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(n, s, s, 3) uint8 to (n, tokens, dim) float32; patches in their order."""
        if images.shape[1:] != (self.pixels, self.pixels, 3):
            raise ValueError(
                f"images have shape {images.shape}; these patches need "
                f"(n, {self.pixels}, {self.pixels}, 3)"
            )
        x = (images.astype(np.float32) / 255 - self._mean) / self._std
        side = self.pixels // self.patch
        x = x.reshape(-1, side, self.patch, side, self.patch, 3).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(-1, self.tokens, self.dim)[:, self._order]

    def decode(self, values: np.ndarray) -> np.ndarray:
        """(n, tokens, dim) to (n, s, s, 3) uint8."""
        if values.shape[1:] != (self.tokens, self.dim):
            raise ValueError(
                f"latents have shape {values.shape}; these patches need "
                f"(n, {self.tokens}, {self.dim})"
            )
        side = self.pixels // self.patch
        x = values.astype(np.float32)[:, np.argsort(self._order)].reshape(
            -1, side, side, self.patch, self.patch, 3
        )
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, self.pixels, self.pixels, 3)
        x = np.clip(x * self._std + self._mean, 0, 1)
        return (x * 255 + 0.5).astype(np.uint8)

    def save(self, folder: Path) -> None:
        """Writes `patches.json` and `patches.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"pixels": self.pixels, "patch": self.patch, "order": self.order}
        (folder / "patches.json").write_text(json.dumps(meta))
        save_file({"mean": self._mean, "std": self._std}, folder / "patches.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Patches:
        meta = json.loads((folder / "patches.json").read_text())
        stored = load_file(folder / "patches.safetensors")
        return cls(meta["pixels"], meta["patch"], stored["mean"], stored["std"], meta["order"])
