"""Images as latents of an autoencoder: one trained here, or one of diffusers' that somebody has.

Each token is a square of latents, so that `patch` pixels stand in one vector whatever the
autoencoder's own downsampling is. The latents are centred and scaled: to unit variance by what was
measured on training images, or as the network itself says; the scale is stored with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

from ..codec import Codec
from ..options import CODE_SIZE, at_least
from ..pretrained import PretrainedOptions, config_of
from .files import IMAGE, fit_image
from .latent_networks import WANTED, LatentNetwork, facts_of, read
from .patches import PatchOptions, patch_order

__all__ = ["AutoencoderCodec", "AutoencoderOptions"]

#: Training images that the scale is measured on: at most, at least, and of how many latents.
MOST_MEASURED, LEAST_MEASURED, LATENTS_MEASURED = 4096, 64, 4096 * 8**2
#: Pixels encoded or decoded at once.
CHUNK = 256 * 32**2

_META, _SCALE, _NETWORK = "latents_scale.json", "latents_scale.safetensors", "autoencoder"
_SCALES = ("measured", "network")


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(PatchOptions, PretrainedOptions):
    """Of `autoencoder`, latents of an autoencoder."""

    training: ClassVar[tuple[str, ...]] = ("steps", "pretrained")
    wanted: ClassVar[tuple[str, ...]] = WANTED
    patches: ClassVar[tuple[int, ...]] = (2, 4, 8, 16, 32, 64)

    patch: int = 4
    """Side of the square of pixels that one vector stands for: 2, 4, 8, 16, 32 or 64, a multiple of
    what one latent covers (4 where the autoencoder is trained here; 8 of most others)."""

    pretrained: str | None = None
    """Folder of a diffusers autoencoder (AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage,
    AutoencoderDC, AutoencoderTiny), or its id on the Hugging Face hub: owner/name, or
    owner/name/vae. None: train a small one on the images."""

    scale: str = "measured"
    """Scale of the latents: "measured" on training images, to unit variance; or that of the
    "network", which its own diffusion models use."""

    steps: int = 1200
    """Training steps of the autoencoder, 32 images each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("steps", self.steps, 1)
        if self.scale not in _SCALES:
            raise ValueError(f"scale is {self.scale!r}; choose from {', '.join(_SCALES)}")

    def check_files(self) -> None:
        if self.pretrained is None:
            if self.scale == "network":
                raise ValueError(
                    "scale is 'network', but an autoencoder that is trained here has no scale of "
                    "its own; give pretrained, or scale: measured"
                )
            check_patch(CODE_SIZE, self)
            return
        _unmeasured(self)

    def network(self) -> LatentNetwork:
        """The pretrained one, tried out.

        Raises:
            FileNotFoundError, ValueError: there is none, or one that does not fit.
        """
        folder = self.folder
        if (folder / "vae" / "config.json").is_file() and not (folder / "config.json").is_file():
            raise ValueError(
                f"pretrained is {self.pretrained!r}, a whole pipeline; give its autoencoder: "
                f"{str(self.pretrained).rstrip('/')}/vae"
            )
        check_patch(facts_of(config_of(folder), str(folder)).cell, self)  # before it is loaded
        network = read(folder)
        network.probe()
        return network


class AutoencoderCodec(Codec):
    """Square RGB images <-> latent vectors of unit scale.

    Args:
        network: the autoencoder.
        options: `size` and `patch` must fit the network.
        mean, std: (channels,) of the raw latents, or (channels, a, a) of squares of a x a latents.

    Raises:
        ValueError: a patch that the network does not divide, or a scale that does not fit it.
    """

    codec = "autoencoder"
    media = IMAGE
    Options = AutoencoderOptions
    kind = "continuous"
    version = 1

    def __init__(
        self,
        network: LatentNetwork,
        options: AutoencoderOptions,
        mean: np.ndarray,
        std: np.ndarray,
    ) -> None:
        self._network = network
        facts = network.facts
        check_patch(facts.cell, options)
        self.options = options
        self._cells = options.patch // facts.cell
        self._channels = facts.channels
        if not mean.shape == std.shape or mean.shape[:1] != (facts.channels,):
            raise ValueError(
                f"the latent scale has shapes {mean.shape} and {std.shape}, but the autoencoder "
                f"has {facts.channels} latent channels"
            )
        self.fixed_length = options.fixed_length
        self.size = facts.channels * self._cells**2
        self._order = patch_order(options.size // options.patch, options.order)
        self._scale = mean.astype(np.float32), std.astype(np.float32)
        self._mean, self._std = (_over(value, options.size // facts.cell) for value in self._scale)

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
        """Train one on images, (s, s, 3) uint8 each, or take that of `options.pretrained`; and its
        scale.

        Raises:
            FileNotFoundError, ValueError: the folder holds no autoencoder that fits.
        """
        images = np.asarray(prepared)
        if options.pretrained is not None:
            codec = _unmeasured(options)
            if options.scale == "measured":
                codec = cls.measured(codec._network, images, options)
        else:
            options.check_files()  # before minutes of training
            codec = cls.measured(_trained(images, options, seed, report), images, options)
        report(f"image autoencoder: {codec.fixed_length} vectors of {codec.size}")
        return codec

    @classmethod
    def measured(
        cls, network: LatentNetwork, images: np.ndarray, options: AutoencoderOptions
    ) -> AutoencoderCodec:
        """The codec of a network, with the latents' scale measured on images."""
        channels = network.facts.channels
        codec = cls(network, options, np.zeros(channels), np.ones(channels))
        latents = (options.size // network.facts.cell) ** 2
        many = min(MOST_MEASURED, max(LEAST_MEASURED, LATENTS_MEASURED // latents))
        raw = codec._latents(images[:: max(1, len(images) // many)])
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
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
        x = (self._latents(images) - self._mean) / self._std
        n, c, side, _ = x.shape
        p, grid = self._cells, side // self._cells
        x = x.reshape(n, c, grid, p, grid, p).transpose(0, 2, 4, 3, 5, 1)
        return list(x.reshape(n, -1, self.size)[:, self._order].astype(np.float32))

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of vectors, (s, s, 3) uint8 each; values out of range are clipped."""
        import torch

        from .networks import to_pixels

        if not len(tokens):
            return []
        values = np.stack(list(tokens))
        if values.ndim != 3 or values.shape[1:] != (self.fixed_length, self.size):
            raise ValueError(
                f"latents have shape {values.shape}; this autoencoder needs "
                f"(n, {self.fixed_length}, {self.size})"
            )
        if not np.isfinite(values).all():
            raise ValueError("latents are NaN or infinite; no image can be made of them")
        p, grid = self._cells, self.options.size // self.options.patch
        x = values.astype(np.float32)[:, np.argsort(self._order)].reshape(
            -1, grid, grid, p, p, self._channels
        )
        x = x.transpose(0, 5, 1, 3, 2, 4).reshape(-1, self._channels, grid * p, grid * p)
        x = x * self._std + self._mean
        out: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(x), self._chunk):
                z = torch.from_numpy(np.ascontiguousarray(x[start : start + self._chunk]))
                out.extend(to_pixels(self._network.decode(z), self._network.facts.fold))
        return out

    def save(self, folder: Path) -> None:
        """Writes `autoencoder/` in diffusers' format, `latents_scale.json` and its tensors."""
        folder.mkdir(parents=True, exist_ok=True)
        self._network.network.save_pretrained(folder / _NETWORK, safe_serialization=True)
        options = self.options
        meta = {"pixels": options.size, "patch": options.patch, "order": options.order}
        meta |= {"steps": options.steps, "scale": options.scale}
        (folder / _META).write_text(json.dumps(meta))
        mean, std = self._scale
        save_file({"mean": mean, "std": std}, folder / _SCALE)

    @classmethod
    def load(cls, folder: Path) -> AutoencoderCodec:
        meta, stored = json.loads((folder / _META).read_text()), load_file(folder / _SCALE)
        options = AutoencoderOptions(
            size=meta["pixels"],
            patch=meta["patch"],
            order=meta["order"],
            steps=meta.get("steps", AutoencoderOptions.steps),  # not recorded by version 0.1,
            scale=meta.get("scale", "measured"),  # which measured all scales
        )
        return cls(read(folder / _NETWORK), options, stored["mean"], stored["std"])

    @property
    def _chunk(self) -> int:
        """Images encoded or decoded at once."""
        return max(1, CHUNK // self.options.size**2)

    def _latents(self, images: np.ndarray) -> np.ndarray:
        """(n, channels, cells, cells) float32, not yet scaled."""
        import torch

        from .networks import to_unit

        out = []
        with torch.inference_mode():
            for start in range(0, len(images), self._chunk):
                x = to_unit(images[start : start + self._chunk], self._network.facts.fold)
                out.append(self._network.encode(x).numpy())
        return np.concatenate(out)


def _unmeasured(options: AutoencoderOptions) -> AutoencoderCodec:
    """The codec of a pretrained network, with its own scale, or the latents as they are."""
    network = options.network()
    if options.scale == "network":
        return AutoencoderCodec(network, options, *network.scale())
    channels = network.facts.channels
    return AutoencoderCodec(network, options, np.zeros(channels), np.ones(channels))


def _trained(
    images: np.ndarray, options: AutoencoderOptions, seed: int, report: Callable[[str], None]
) -> LatentNetwork:
    from .kl_network import train

    steps = options.steps

    def say(step: int, error: float) -> None:
        report(f"image autoencoder: step {step} of {steps}, error {error:.4f}")

    return LatentNetwork(train(images, steps=steps, seed=seed, report=say))


def check_patch(cell: int, options: AutoencoderOptions) -> None:
    """
    Args:
        cell: side in pixels of what one latent covers.

    Raises:
        ValueError: the patch is no multiple of it.
    """
    if options.patch % cell:
        fitting = [str(patch) for patch in options.patches if patch % cell == 0]
        raise ValueError(
            f"patch is {options.patch}, but one latent of this autoencoder covers {cell} pixels, "
            f"which must divide the patch ({options.patch} pixels); choose a patch that it "
            f"divides: {', '.join(fitting) or 'none of those there are'}"
        )


def _over(scale: np.ndarray, side: int) -> np.ndarray:
    """A scale of a channel, or of squares of latents, for latents (n, channels, side, side)."""
    if scale.ndim == 1:
        return scale[:, None, None]
    square = scale.shape[-1]
    if side % square:
        raise ValueError(
            f"the network's scale is one of {square}x{square} latents, but an image has "
            f"{side}x{side}; give a size that it divides, or choose scale: measured"
        )
    return np.tile(scale, (1, side // square, side // square))
