"""Images as raw patches: the pixels of a square as one vector, scaled to unit variance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

from ..codec import Codec
from ..options import SquareImageOptions
from .files import IMAGE, fit_image

__all__ = ["PatchCodec", "PatchOptions", "patch_order"]

#: Orders in which the patches of an image are read: row by row, or along a Z-order curve.
ORDERS = ("rows", "z")

_META, _SCALE = "patches.json", "patches.safetensors"


@dataclass(frozen=True, kw_only=True)
class PatchOptions(SquareImageOptions):
    """Of `patches`, the raw pixels of a square as one vector."""

    kind: ClassVar[str] = "continuous"
    #: Values that `patch` may have.
    patches: ClassVar[tuple[int, ...]] = (2, 4, 8)

    patch: int = 4
    """Side of the square of pixels that one vector stands for: 2, 4 or 8."""

    order: str = "rows"
    """Order of the vectors of an image: "rows", or "z" for a Z-order curve, which keeps neighbours
    near."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch not in self.patches:
            *others, last = self.patches
            choices = f"{', '.join(map(str, others))} or {last}"
            raise ValueError(f"patch is {self.patch}; choose {choices} pixels")
        if self.size % self.patch:
            raise ValueError(
                f"size is {self.size}, but patch is {self.patch}; give a size that is a multiple "
                "of the patch"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}; choose from {', '.join(ORDERS)}")

    @property
    def fixed_length(self) -> int:
        return (self.size // self.patch) ** 2


class PatchCodec(Codec):
    """(value - mean) / std of the patch's pixels, with one mean and one std per colour channel.

    Exactly invertible: decode(encode(x)) is x.
    """

    codec = "patches"
    media = IMAGE
    Options = PatchOptions
    kind = "continuous"

    def __init__(self, options: PatchOptions, mean: np.ndarray, std: np.ndarray) -> None:
        """mean, std: (3,) float32, of pixels in 0..1."""
        self.options = options
        self.size = 3 * options.patch**2
        self.fixed_length = options.fixed_length
        self._mean, self._std = mean, std
        self._order = patch_order(options.size // options.patch, options.order)

    @classmethod
    def prepare(cls, item: np.ndarray, options: PatchOptions) -> np.ndarray:
        return fit_image(item, options.size)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray] | np.ndarray,
        options: PatchOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> PatchCodec:
        """Measures mean and deviation of training images, (s, s, 3) uint8 each."""
        x = np.asarray(prepared[:: max(1, len(prepared) // 4096)]).astype(np.float64) / 255
        std = np.maximum(x.std((0, 1, 2)), 1e-3).astype(np.float32)
        codec = cls(options, x.mean((0, 1, 2)).astype(np.float32), std)
        report(f"image patches: {codec.fixed_length} vectors of {codec.size}")
        return codec

    def encode(self, prepared: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Vectors of (s, s, 3) uint8 images, in the order of the options."""
        if not len(prepared):
            return []
        images, pixels, patch = np.stack(list(prepared)), self.options.size, self.options.patch
        if images.shape[1:] != (pixels, pixels, 3):
            raise ValueError(
                f"images have shape {images.shape}; these patches need (n, {pixels}, {pixels}, 3)"
            )
        x = (images.astype(np.float32) / 255 - self._mean) / self._std
        side = pixels // patch
        x = x.reshape(-1, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        return list(x.reshape(-1, side * side, self.size)[:, self._order])

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of vectors, (s, s, 3) uint8 each; values out of range are clipped."""
        if not len(tokens):
            return []
        values, pixels, patch = np.stack(list(tokens)), self.options.size, self.options.patch
        if values.shape[1:] != (self.fixed_length, self.size):
            raise ValueError(
                f"latents have shape {values.shape}; these patches need "
                f"(n, {self.fixed_length}, {self.size})"
            )
        side = pixels // patch
        x = values.astype(np.float32)[:, np.argsort(self._order)]
        x = x.reshape(-1, side, side, patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = np.clip(x.reshape(-1, pixels, pixels, 3) * self._std + self._mean, 0, 1)
        return list((x * 255 + 0.5).astype(np.uint8))

    def save(self, folder: Path) -> None:
        """Writes `patches.json` and `patches.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        options = self.options
        meta = {"pixels": options.size, "patch": options.patch, "order": options.order}
        (folder / _META).write_text(json.dumps(meta))
        save_file({"mean": self._mean, "std": self._std}, folder / _SCALE)

    @classmethod
    def load(cls, folder: Path) -> PatchCodec:
        meta, stored = json.loads((folder / _META).read_text()), load_file(folder / _SCALE)
        options = PatchOptions(size=meta["pixels"], patch=meta["patch"], order=meta["order"])
        return cls(options, stored["mean"], stored["std"])


def patch_order(side: int, kind: str) -> np.ndarray:
    """(side * side,) int64: the patch, counted row by row, that each token stands for.

    Args:
        side: patches in a row of the image.
        kind: "rows": row by row. "z": along a Z-order curve, quarter by quarter at every scale, so
            that patches near in the image stay near in the sequence.

    Raises:
        ValueError: an order that does not exist.
    """
    if kind not in ORDERS:
        raise ValueError(f"order is {kind!r}; choose from {', '.join(ORDERS)}")
    patches = np.arange(side * side)
    if kind == "rows":
        return patches
    row, column = np.divmod(patches, side)
    position = np.zeros_like(patches)
    for bit in range(max(1, side.bit_length())):
        position |= ((column >> bit) & 1) << (2 * bit) | ((row >> bit) & 1) << (2 * bit + 1)
    return np.argsort(position, kind="stable")
