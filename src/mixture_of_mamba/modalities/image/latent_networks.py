"""The autoencoders of diffusers whose latents are image tokens, behind one face.

They differ in what their configs call things, in what `encode` returns, and in how they say the
scale that their latents are diffused at. What a config.json says is read without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras import needs
from ..pretrained import class_of, config_of, load_diffusers, loading

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLASSES", "Facts", "LatentNetwork", "facts_of", "read"]

#: Files of a repository on the hub that such a network needs; diffusers' weights are safetensors.
WANTED = ("config.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class _Class:
    """Names of the fields in the config of a class, and its defaults for what may be left out.

    Attributes:
        blocks: field with one entry a resolution; the side is halved between two of them.
        latent: field that counts the latent channels.
        pixels: fields that count the channels of input and output.
        output: attribute of what `encode` returns.
        default: resolutions and latent channels.
        frames: whether it takes (n, c, frames, h, w), and images as one frame.
    """

    blocks: str
    latent: str
    pixels: tuple[str, str]
    output: str
    default: tuple[int, int]
    frames: bool = False


_RGB = ("in_channels", "out_channels")
CLASSES = {
    "AutoencoderKL": _Class("block_out_channels", "latent_channels", _RGB, "latent_dist", (1, 4)),
    "AutoencoderKLFlux2": _Class(
        "block_out_channels", "latent_channels", _RGB, "latent_dist", (4, 32)
    ),
    "AutoencoderKLQwenImage": _Class(
        "dim_mult", "z_dim", ("input_channels",) * 2, "latent_dist", (4, 16), frames=True
    ),
    "AutoencoderDC": _Class(
        "encoder_block_out_channels", "latent_channels", ("in_channels",) * 2, "latent", (6, 32)
    ),
    "AutoencoderTiny": _Class(
        "encoder_block_out_channels", "latent_channels", _RGB, "latents", (4, 4)
    ),
}


@dataclass(frozen=True)
class Facts:
    """What a network's config says about its latents.

    Attributes:
        name: the network's class.
        fold: side of the square of pixels that is folded into its input channels.
        cell: side in pixels of what one latent covers.
        channels: entries of a latent.
    """

    name: str
    fold: int
    cell: int
    channels: int


def facts_of(config: Mapping[str, Any], where: str) -> Facts:
    """The facts of a config.json or of a loaded network's config.

    Raises:
        ValueError: it is of another class, or its channels are no RGB; `where` is named.
    """
    name = class_of(config)
    if name not in CLASSES:
        raise ValueError(
            f"{where} holds a {name}; image latents are made by one of diffusers' "
            f"{', '.join(CLASSES)}: give such a network"
        )
    said = CLASSES[name]
    levels, channels = said.default
    if said.blocks in config:
        levels = len(config[said.blocks])
    inputs, outputs = (int(config.get(field, 3)) for field in said.pixels)
    fold = round((inputs / 3) ** 0.5)
    if 3 * fold**2 != inputs or inputs != outputs:
        raise ValueError(
            f"the {name} in {where} has {inputs} input and {outputs} output channels; 3 (RGB), or "
            "3 times a square for folded pixels, are needed"
        )
    return Facts(name, fold, fold * 2 ** (levels - 1), int(config.get(said.latent, channels)))


def read(folder: Path) -> LatentNetwork:
    """The autoencoder of a local folder; never a pickle, never from the network.

    Raises:
        FileNotFoundError: no config.json or no weights there.
        ValueError: another class, damaged or missing weights, or weights that do not fit the
            config.
    """
    facts = facts_of(config_of(folder), str(folder))
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no .safetensors weights; save the {facts.name} again with "
            "save_pretrained(…, safe_serialization=True)"
        )
    with needs("an autoencoder's latents", "train"):
        import diffusers
    network_class = getattr(diffusers, facts.name, None)
    if network_class is None:
        raise ImportError(
            f"{folder} holds a {facts.name}, which diffusers {diffusers.__version__} does not have "
            "yet; install a newer one with: pip install -U diffusers"
        )
    return LatentNetwork(load_diffusers(network_class, folder), str(folder))


class LatentNetwork:
    """A diffusers autoencoder of one of CLASSES, in evaluation mode and without gradients.

    Args:
        network: the autoencoder.
        where: what errors call it.

    Raises:
        ValueError: it is of another class, or its channels are no RGB.
    """

    def __init__(self, network: Any, where: str = "the autoencoder") -> None:
        self.network = network.eval().requires_grad_(False)
        config = {"_class_name": type(network).__name__, **network.config}
        self.facts = facts_of(config, where)
        self._config = config
        self._where = where

    def encode(self, x: Tensor) -> Tensor:
        """(n, 3 fold², h, w) in -1..1 to (n, channels, h fold / cell, w fold / cell), not scaled;
        of posteriors the mean.

        Raises:
            ValueError: a latent is NaN or infinite.
        """
        said = CLASSES[self.facts.name]
        found = getattr(self.network.encode(x[:, :, None] if said.frames else x), said.output)
        z: Tensor = found.mode() if said.output == "latent_dist" else found
        z = z[:, :, 0] if said.frames else z
        if not z.isfinite().all():
            raise ValueError(
                f"{self._where} gives NaN or infinite latents; its weights are bad, or not for "
                "float32"
            )
        return z.float()

    def decode(self, z: Tensor) -> Tensor:
        """What `encode` gives to (n, 3 fold², h, w), about -1..1."""
        frames = CLASSES[self.facts.name].frames
        x: Tensor = self.network.decode(z[:, :, None] if frames else z).sample
        return x[:, :, 0] if frames else x

    def probe(self) -> None:
        """Encode and decode one grey image of two cells.

        Raises:
            ValueError: the latents are not as many, or the image not as large, as the config says.
        """
        import torch

        fold, cell, channels = self.facts.fold, self.facts.cell, self.facts.channels
        x = torch.zeros(1, 3 * fold**2, 2 * cell // fold, 2 * cell // fold)
        with torch.inference_mode(), loading(Path(self._where), self.facts.name):
            z = self.encode(x)
            if z.shape != (1, channels, 2, 2):
                raise ValueError(f"its latents of 2x2 cells have the shape {tuple(z.shape)}")
            if (again := self.decode(z).shape) != x.shape:
                raise ValueError(f"it decodes {tuple(x.shape)} as {tuple(again)}")

    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """The network's own (mean, std) of its latents, float32: (channels,), or of
        AutoencoderKLFlux2, which counts 2x2 latents as one, (channels, 2, 2).

        Raises:
            ValueError: it says none, or one that cannot be.
        """
        config, channels = self._config, self.facts.channels
        shape: tuple[int, ...] = (channels,)
        if self.facts.name == "AutoencoderKLFlux2":
            norm = self.network.bn
            shape = (channels, *config["patch_size"])
            mean = norm.running_mean.double().numpy()
            std = np.sqrt(norm.running_var.double().numpy() + norm.eps)
        else:
            factor = config.get("scaling_factor", 1.0)
            shift, deviation = config.get("shift_factor") or 0.0, 1.0
            if config.get("latents_mean") is not None and config.get("latents_std") is not None:
                shift, deviation = config["latents_mean"], config["latents_std"]
            mean, std = np.asarray(shift, float), np.asarray(deviation, float) / (factor or np.nan)
        try:
            mean, std = (
                np.full(shape, value) if value.ndim == 0 else value.reshape(shape)
                for value in (mean, std)
            )
        except ValueError as error:
            raise ValueError(
                f"{self._where} has {channels} latent channels, but a scale of {mean.size} and "
                f"{std.size} numbers; mend its config.json, or choose scale: measured"
            ) from error
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError(
                f"the scale that {self._where} says of its latents is not finite and positive; "
                "mend its config.json, or choose scale: measured"
            )
        return mean.astype(np.float32), std.astype(np.float32)
