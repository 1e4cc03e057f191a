"""Images as latents of a KL autoencoder (diffusers' `AutoencoderKL`).

Each token is a square of latent cells, so that `patch` pixels stand in one vector whatever the
autoencoder's own downsampling is. The latents are centred and scaled to unit variance by what was
measured on training images; the measure is stored with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from ..codec import Codec
from ..options import AutoencoderOptions
from .files import IMAGE, fit_image
from .kl_network import folded_side, read, train
from .networks import CHUNK, FOLD, to_pixels, to_unit
from .patches import patch_order

__all__ = ["AutoencoderCodec"]

#: Training images that the scale is measured on, at most.
MEASURED = 4096

_META, _SCALE, _NETWORK = "latents_scale.json", "latents_scale.safetensors", "autoencoder"


class AutoencoderCodec(Codec):
    """Square RGB images <-> latent vectors of unit scale.

    Args:
        network: a diffusers AutoencoderKL whose input channels are 3 times a square.
        options: `size` and `patch` must fit the network.
        mean, std: (channels,) of the raw latents.

    Raises:
        ValueError: a patch that the network does not divide, or channels that are no folded RGB.
    """

    codec = "autoencoder"
    media = IMAGE
    Options = AutoencoderOptions
    kind = "continuous"
    version = 1

    def __init__(
        self, network: Any, options: AutoencoderOptions, mean: np.ndarray, std: np.ndarray
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self._fold = folded_side(network)
        cell = self._fold * 2 ** (len(network.config.block_out_channels) - 1)
        _check_sizes(cell, options)
        self.options = options
        self._cells = options.patch // cell
        self._channels = int(network.config.latent_channels)
        if mean.shape != (self._channels,) or std.shape != (self._channels,):
            raise ValueError(
                f"the latent scale has shapes {mean.shape} and {std.shape}, but the autoencoder "
                f"has {self._channels} latent channels"
            )
        self.fixed_length = options.fixed_length
        self.size = self._channels * self._cells**2
        self._order = patch_order(options.size // options.patch, options.order)
        self._mean, self._std = mean.astype(np.float32), std.astype(np.float32)

    @classmethod
    def prepare(cls, item: np.ndarray, options: AutoencoderOptions) -> np.ndarray:
        return fit_image(item, options.size)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray] | np.ndarray,
        options: AutoencoderOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> AutoencoderCodec:
        """Train one on images, (s, s, 3) uint8 each, or take the folder `options.pretrained`, and
        measure the scale of its latents.

        Raises:
            FileNotFoundError, ValueError: the folder holds no AutoencoderKL that fits.
        """
        images = np.asarray(prepared)
        if options.pretrained is None:
            _check_sizes(FOLD, options)  # before minutes of training
            steps = options.steps

            def say(step: int, error: float) -> None:
                report(f"image autoencoder: step {step} of {steps}, error {error:.4f}")

            network = train(images, steps=steps, seed=seed, report=say)
        else:
            network = read(Path(options.pretrained))
        codec = cls.measured(network, images, options)
        report(f"image autoencoder: {codec.fixed_length} vectors of {codec.size}")
        return codec

    @classmethod
    def measured(
        cls, network: Any, images: np.ndarray, options: AutoencoderOptions
    ) -> AutoencoderCodec:
        """The codec of a network, with the latents' scale measured on images."""
        channels = int(network.config.latent_channels)
        codec = cls(network, options, np.zeros(channels), np.ones(channels))
        raw = codec._latents(images[:: max(1, len(images) // MEASURED)])
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError("the autoencoder gives NaN or infinite latents; its weights are bad")
        return cls(network, options, mean, np.maximum(std, 1e-3))

    def encode(self, prepared: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Of (s, s, 3) uint8 images the means of the latents' posteriors, float32."""
        if not len(prepared):
            return []
        images, pixels = np.stack(list(prepared)), self.options.size
        if images.shape[1:] != (pixels, pixels, 3):
            raise ValueError(
                f"images have shape {images.shape}; this autoencoder needs "
                f"(n, {pixels}, {pixels}, 3)"
            )
        x = (self._latents(images) - self._mean[:, None, None]) / self._std[:, None, None]
        n, c, side, _ = x.shape
        p, grid = self._cells, side // self._cells
        x = x.reshape(n, c, grid, p, grid, p).transpose(0, 2, 4, 3, 5, 1)
        return list(x.reshape(n, -1, self.size)[:, self._order].astype(np.float32))

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of vectors, (s, s, 3) uint8 each; values out of range are clipped."""
        if not len(tokens):
            return []
        values = np.stack(list(tokens))
        if values.ndim != 3 or values.shape[1:] != (self.fixed_length, self.size):
            raise ValueError(
                f"latents have shape {values.shape}; this autoencoder needs "
                f"(n, {self.fixed_length}, {self.size})"
            )
        p, grid = self._cells, self.options.size // self.options.patch
        x = values.astype(np.float32)[:, np.argsort(self._order)].reshape(
            -1, grid, grid, p, p, self._channels
        )
        x = x.transpose(0, 5, 1, 3, 2, 4).reshape(-1, self._channels, grid * p, grid * p)
        x = x * self._std[:, None, None] + self._mean[:, None, None]
        out: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(x), CHUNK):
                z = torch.from_numpy(np.ascontiguousarray(x[start : start + CHUNK]))
                out.extend(to_pixels(self._network.decode(z).sample, self._fold))
        return out

    def save(self, folder: Path) -> None:
        """Writes `autoencoder/` in diffusers' format, `latents_scale.json` and its tensors."""
        folder.mkdir(parents=True, exist_ok=True)
        self._network.save_pretrained(folder / _NETWORK, safe_serialization=True)
        options = self.options
        meta = {"pixels": options.size, "patch": options.patch, "order": options.order}
        (folder / _META).write_text(json.dumps({**meta, "steps": options.steps}))
        save_file({"mean": self._mean, "std": self._std}, folder / _SCALE)

    @classmethod
    def load(cls, folder: Path) -> AutoencoderCodec:
        meta, stored = json.loads((folder / _META).read_text()), load_file(folder / _SCALE)
        options = AutoencoderOptions(
            size=meta["pixels"],
            patch=meta["patch"],
            order=meta["order"],
            steps=meta.get("steps", AutoencoderOptions.steps),  # not recorded by version 0.1
        )
        return cls(read(folder / _NETWORK), options, stored["mean"], stored["std"])

    def _latents(self, images: np.ndarray) -> np.ndarray:
        """(n, channels, cells, cells) float32, not yet scaled."""
        out = []
        with torch.inference_mode():
            for start in range(0, len(images), CHUNK):
                x = to_unit(images[start : start + CHUNK], self._fold)
                out.append(self._network.encode(x).latent_dist.mode().float().numpy())
        return np.concatenate(out)


def _check_sizes(cell: int, options: AutoencoderOptions) -> None:
    """cell: side in pixels of what one latent covers."""
    if options.patch % cell:
        raise ValueError(
            f"one latent of this autoencoder covers {cell} pixels, which must divide the patch "
            f"({options.patch} pixels); choose a patch that it divides"
        )
