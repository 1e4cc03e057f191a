"""Latents of a KL autoencoder (diffusers' `AutoencoderKL`): trained here, or any from a folder.

Each token is a square of latent cells, so that `patch` pixels stand in one vector whatever the
autoencoder's own downsampling is. The latents are centred and scaled to unit variance by what was
measured on training pictures; the measure is stored with the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from ...extras import needs
from ...seeding import torch_seed
from .scan_order import patch_order

__all__ = ["Autoencoder"]

FOLD = 4
"""Pixels folded into channels before the first convolution of the autoencoder trained here: the
side of one latent cell."""
WIDTH = 64
CHANNELS = 8
"""Entries of one latent cell."""
KL_WEIGHT = 1e-4
BATCH = 32
RATE = 2e-3
CHUNK = 256
"""Pictures encoded or decoded at once."""
MEASURED = 4096
"""Training pictures that the scale is measured on, at most."""


class Autoencoder:
    """Square RGB pictures <-> (tokens, dim) latents of unit scale.

    Args:
        net: a diffusers AutoencoderKL whose input channels are 3 times a square.
        pixels: side of the pictures.
        patch: side of the square of pixels that one token stands for.
        mean, std: (channels,) of the raw latents.
        order: of the tokens; see patch_order.

    Raises:
        ValueError: sizes that do not divide each other, or channels that are no folded RGB.
    """

    source = "autoencoder"

    def __init__(
        self,
        net: Any,
        pixels: int,
        patch: int,
        mean: np.ndarray,
        std: np.ndarray,
        order: str = "rows",
    ) -> None:
        self._net = net.eval().requires_grad_(False)
        self._fold = _folded(net)
        cell = self._fold * 2 ** (len(net.config.block_out_channels) - 1)
        _check_sizes(cell, patch, pixels)
        self.pixels, self.patch = pixels, patch
        self._cells = patch // cell
        self._channels = int(net.config.latent_channels)
        if mean.shape != (self._channels,) or std.shape != (self._channels,):
            raise ValueError(
                f"the latent scale has shapes {mean.shape} and {std.shape}, but the autoencoder "
                f"has {self._channels} latent channels"
            )
        self.tokens = (pixels // patch) ** 2
        self.dim = self._channels * self._cells**2
        self.order = order
        self._order = patch_order(pixels // patch, order)
        self._mean, self._std = mean.astype(np.float32), std.astype(np.float32)

    @classmethod
    def fit(cls, images: np.ndarray, config: Any) -> Autoencoder:
        """Train one on pictures (n, s, s, 3) uint8, or take the folder that `config.latents` names,
        and measure the scale of its latents.

        Raises:
            FileNotFoundError, ValueError: the folder holds no AutoencoderKL that fits.
        """
        latents, patch = config.chosen("latents"), config.chosen("patch")
        if latents == cls.source:
            _check_sizes(FOLD, patch, images.shape[1])  # before minutes of training
            net = train(images, steps=config.image_steps, seed=config.seed)
        else:
            net = read(Path(latents))
        return cls.measured(net, images, patch, config.chosen("patch_order"))

    @classmethod
    def measured(cls, net: Any, images: np.ndarray, patch: int, order: str = "rows") -> Autoencoder:
        """The codec of a network, with the latents' scale measured on pictures."""
        channels = int(net.config.latent_channels)
        codec = cls(net, images.shape[1], patch, np.zeros(channels), np.ones(channels))
        some = images[:: max(1, len(images) // MEASURED)]
        raw = codec._latents(some)
        mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
        if not (np.isfinite(mean).all() and np.isfinite(std).all()):
            raise ValueError("the autoencoder gives NaN or infinite latents; its weights are bad")
        return cls(net, images.shape[1], patch, mean, np.maximum(std, 1e-3), order)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(n, s, s, 3) uint8 to (n, tokens, dim) float32; the mean of each latent's posterior."""
        if images.shape[1:] != (self.pixels, self.pixels, 3):
            raise ValueError(
                f"images have shape {images.shape}; this autoencoder needs "
                f"(n, {self.pixels}, {self.pixels}, 3)"
            )
        raw = self._latents(images)
        x = (raw - self._mean[:, None, None]) / self._std[:, None, None]
        n, c, side, _ = x.shape
        p, grid = self._cells, side // self._cells
        x = x.reshape(n, c, grid, p, grid, p).transpose(0, 2, 4, 3, 5, 1)
        return x.reshape(n, self.tokens, self.dim)[:, self._order].astype(np.float32)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """(n, tokens, dim) to (n, s, s, 3) uint8; values out of range are clipped."""
        if values.ndim != 3 or values.shape[1:] != (self.tokens, self.dim):
            raise ValueError(
                f"latents have shape {values.shape}; this autoencoder needs "
                f"(n, {self.tokens}, {self.dim})"
            )
        p, grid = self._cells, self.pixels // self.patch
        x = values.astype(np.float32)[:, np.argsort(self._order)].reshape(
            -1, grid, grid, p, p, self._channels
        )
        x = x.transpose(0, 5, 1, 3, 2, 4).reshape(-1, self._channels, grid * p, grid * p)
        x = x * self._std[:, None, None] + self._mean[:, None, None]
        out = []
        with torch.inference_mode():
            for start in range(0, len(x), CHUNK):
                z = torch.from_numpy(np.ascontiguousarray(x[start : start + CHUNK]))
                y = F.pixel_shuffle(self._net.decode(z).sample, self._fold)
                y = ((y.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)
                out.append(y.permute(0, 2, 3, 1).numpy())
        return np.concatenate(out) if out else np.zeros((0, self.pixels, self.pixels, 3), np.uint8)

    def save(self, folder: Path) -> None:
        """Writes `autoencoder/` in diffusers' format, `latents_scale.json` and its tensors."""
        folder.mkdir(parents=True, exist_ok=True)
        self._net.save_pretrained(folder / "autoencoder", safe_serialization=True)
        meta = {"pixels": self.pixels, "patch": self.patch, "order": self.order}
        (folder / "latents_scale.json").write_text(json.dumps(meta))
        save_file({"mean": self._mean, "std": self._std}, folder / "latents_scale.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Autoencoder:
        meta = json.loads((folder / "latents_scale.json").read_text())
        stored = load_file(folder / "latents_scale.safetensors")
        net = read(folder / "autoencoder")
        return cls(net, meta["pixels"], meta["patch"], stored["mean"], stored["std"], meta["order"])

    def _latents(self, images: np.ndarray) -> np.ndarray:
        """(n, channels, cells, cells) float32, not yet scaled."""
        out = []
        with torch.inference_mode():
            for start in range(0, len(images), CHUNK):
                x = _to_unit(images[start : start + CHUNK], self._fold)
                out.append(self._net.encode(x).latent_dist.mode().float().numpy())
        return np.concatenate(out)


def read(folder: Path) -> Any:
    """The AutoencoderKL of a local folder; never a pickle, never the network.

    Raises:
        FileNotFoundError: no config.json or no weights there.
        ValueError: another class, damaged weights, or weights that do not fit the config.
    """
    with needs("an autoencoder's latents", "train"):
        from diffusers import AutoencoderKL
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no autoencoder: config.json is missing; give a folder that diffusers' "
            "AutoencoderKL.save_pretrained wrote, or the latents 'patches' or 'autoencoder'"
        )
    kind = json.loads((folder / "config.json").read_text()).get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise ValueError(f"{folder} holds a {kind}; an AutoencoderKL is needed")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no .safetensors weights; save the autoencoder again with "
            "save_pretrained(…, safe_serialization=True)"
        )
    try:
        return AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        ).float()
    except Exception as error:  # diffusers raises many kinds for weights that do not fit
        raise ValueError(f"the autoencoder in {folder} cannot be loaded: {error}") from error


def train(
    images: np.ndarray,
    *,
    steps: int,
    seed: int,
    report: Callable[[int, float], None] | None = None,
) -> Any:
    """A small AutoencoderKL for pictures (n, s, s, 3) uint8; squared error plus a little KL.

    Args:
        report: called with (step, mean squared error) now and then.
    """
    with needs("the image autoencoder", "train"):
        from diffusers import AutoencoderKL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        net: Any = AutoencoderKL(
            in_channels=3 * FOLD**2,
            out_channels=3 * FOLD**2,
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            block_out_channels=(WIDTH,),
            layers_per_block=1,
            latent_channels=CHANNELS,
            norm_num_groups=8,
            mid_block_add_attention=False,
        )
        net.to(torch.float32, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, RATE, total_steps=steps + 1, pct_start=0.1
        )
        rng = np.random.default_rng([seed, 23])
        net.train()
        for step in range(steps):
            x = _to_unit(images[rng.integers(len(images), size=BATCH)], FOLD)
            posterior = net.encode(x).latent_dist
            error = F.mse_loss(net.decode(posterior.sample()).sample, x)
            optimizer.zero_grad(set_to_none=True)
            (error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if report is not None and (step % 50 == 0 or step == steps - 1):
                report(step, float(error.detach()))
    return net.eval()


def _check_sizes(cell: int, patch: int, pixels: int) -> None:
    """Sides in pixels: of what one latent covers, of a token's square, of the picture."""
    if patch % cell or pixels % patch:
        raise ValueError(
            f"one latent of this autoencoder covers {cell} pixels, which must divide the patch "
            f"({patch} pixels), and the patch must divide the picture ({pixels} pixels); "
            "choose data.patch and data.image_size to fit"
        )


def _folded(net: Any) -> int:
    """Side of the square of pixels that is folded into the network's input channels."""
    channels = int(net.config.in_channels)
    fold = round((channels / 3) ** 0.5)
    if 3 * fold**2 != channels or channels != int(net.config.out_channels):
        raise ValueError(
            f"the autoencoder has {channels} input and {net.config.out_channels} output channels; "
            "3 (RGB), or 3 times a square for folded pixels, are needed"
        )
    return fold


def _to_unit(images: np.ndarray, fold: int) -> Tensor:
    """(n, s, s, 3) uint8 to (n, 3 fold², s / fold, s / fold) float32 in -1..1, channels last."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pixel_unshuffle(x, fold).contiguous(memory_format=torch.channels_last)
