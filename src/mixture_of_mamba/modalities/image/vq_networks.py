"""VQ autoencoders of transformers and diffusers: what their files say, and how they are called.

Facts are read from JSON alone, so that a config is checked without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...extras import needs
from ..pretrained import class_of, config_of, load_diffusers, load_transformers, preprocessor_of
from .pixel_scale import UNIT, PixelScale

__all__ = ["PARTS", "Chameleon", "Diffusers", "Emu3", "Facts", "Janus", "VQNetwork"]

#: Where the VQ autoencoder of a whole model has its weights.
PARTS = ("model.vqmodel.", "vqmodel.")


@dataclass(frozen=True)
class Facts:
    """What the files of a network say.

    Attributes:
        codes: entries of its codebook.
        factor: side in pixels of the square that one code stands for.
        side: of the images that it was made for, in pixels; None: it does not say.
    """

    codes: int
    factor: int
    side: int | None


class VQNetwork(ABC):
    """One class of networks.

    Attributes:
        name: of the class, in its library.
        codes: the field of its config that counts the codebook's entries.
        levels: the field that lists its resolutions; from each to the next the side is halved.
        defaults: of config.json's fields that may be missing there.
        scale: of pixels, where no processor's file says it.
        cannot_decode: why its codes do not become images again; None: they do.
    """

    name: ClassVar[str]
    codes: ClassVar[str]
    levels: ClassVar[str] = "channel_multiplier"
    defaults: ClassVar[Mapping[str, Any]] = {}
    scale: ClassVar[PixelScale] = UNIT
    cannot_decode: ClassVar[str | None] = None

    def facts(self, folder: Path) -> Facts:
        """Of the network in a folder.

        Raises:
            FileNotFoundError, ValueError: it holds no such network, or one that is not of RGB.
        """
        config = {**self.defaults, **self.config(folder)}
        try:
            codes, levels = int(config[self.codes]), len(config[self.levels])
            channels = {int(config.get(f"{end}_channels", 3)) for end in ("in", "out")}
            if codes < 2 or levels < 1:
                raise ValueError(f"{codes} codes, {levels} resolutions")
            own = _saved_side(preprocessor_of(folder, "image_processor"))
            factor = 2 ** (levels - 1)
            side = own if own is not None else self.own_side(config, factor)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / 'config.json'} is no config of a {self.name} ({error!r}); save the "
                "network again with save_pretrained"
            ) from error
        if channels != {3}:
            raise ValueError(
                f"the {self.name} in {folder} has images of {max(channels - {3})} channels; one of "
                "3 (RGB) is needed"
            )
        return Facts(codes, factor, side)

    @abstractmethod
    def config(self, folder: Path) -> Mapping[str, Any]:
        """The network's own part of config.json."""

    def own_side(self, config: Mapping[str, Any], factor: int) -> int | None:
        """Side in pixels that the config names."""
        return None

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """The network, in float32, for inference."""

    @abstractmethod
    def ids(self, network: Any, pixels: Any) -> Any:
        """Codes of one image.

        Args:
            pixels: (1, 3, s, s) tensor.

        Returns:
            Tensor of (s / factor)**2 codes, row by row, of any shape.
        """

    @abstractmethod
    def pixels(self, network: Any, ids: Any) -> Any:
        """One image of codes.

        Args:
            ids: (1, h, w) tensor.

        Returns:
            (1, 3, s, s) tensor.
        """


class _OfTransformers(VQNetwork):
    """A network of its own folder, or of that of the model that it is a part of.

    Attributes:
        model_type: of its config.json.
        whole: model_type of the model.
    """

    model_type: ClassVar[str]
    whole: ClassVar[str]

    def config(self, folder: Path) -> Mapping[str, Any]:
        config = config_of(folder)
        if config.get("model_type") == self.model_type:
            return config
        part = config.get("vq_config")
        if config.get("model_type") != self.whole or not isinstance(part, Mapping):
            raise ValueError(f"{folder} holds a {class_of(config)}; a {self.name} is needed")
        return part

    def load(self, folder: Path) -> Any:
        with needs(f"a {self.name}", "train"):
            import transformers
        return load_transformers(getattr(transformers, self.name), folder, PARTS)


class Janus(_OfTransformers):
    name = "JanusVQVAE"
    model_type = "janus_vqgan"
    whole = "janus"
    codes = "num_embeddings"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_embeddings": 16384,
        "channel_multiplier": (1, 1, 2, 2, 4),
        "num_patches": 32,
    }

    def own_side(self, config: Mapping[str, Any], factor: int) -> int:
        return int(config["num_patches"]) * factor

    def ids(self, network: Any, pixels: Any) -> Any:
        return network.encode(pixels).image_tokens

    def pixels(self, network: Any, ids: Any) -> Any:
        # without this it takes images of its config's num_patches alone, though it is convolutional
        network.quantize.quant_state_dims = list(ids.shape[1:])
        return network.decode(ids.flatten(1))


class Emu3(_OfTransformers):
    name = "Emu3VQVAE"
    model_type = "emu3_vqgan"
    whole = "emu3"
    codes = "codebook_size"
    defaults: ClassVar[Mapping[str, Any]] = {
        "codebook_size": 32768,
        "channel_multiplier": (1, 2, 2, 4),
    }

    def ids(self, network: Any, pixels: Any) -> Any:
        (ids,) = network.encode(pixels, image_sizes=[tuple(pixels.shape[-2:])]).image_tokens
        return ids

    def pixels(self, network: Any, ids: Any) -> Any:
        return network.decode(ids)


class Chameleon(_OfTransformers):
    name = "ChameleonVQVAE"
    model_type = "chameleon_vqgan"
    whole = "chameleon"
    codes = "num_embeddings"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_embeddings": 8192,
        "channel_multiplier": (1, 1, 2, 2, 4),
        "resolution": 512,
    }
    scale = PixelScale(0.0078, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    cannot_decode = (
        "transformers' ChameleonVQVAE has no decoder, it only encodes; to draw images choose "
        "another codec: janus, emu3, vqmodel or vq"
    )

    def own_side(self, config: Mapping[str, Any], factor: int) -> int:
        return int(config["resolution"])

    def ids(self, network: Any, pixels: Any) -> Any:
        return network.encode(pixels).image_tokens

    def pixels(self, network: Any, ids: Any) -> Any:
        raise ValueError(self.cannot_decode)


class Diffusers(VQNetwork):
    """Its config's sample_size is the library's default in many checkpoints, so it says nothing."""

    name = "VQModel"
    codes = "num_vq_embeddings"
    levels = "block_out_channels"
    defaults: ClassVar[Mapping[str, Any]] = {
        "num_vq_embeddings": 256,
        "block_out_channels": (64,),
    }

    def config(self, folder: Path) -> Mapping[str, Any]:
        config = config_of(folder)
        if class_of(config) != self.name:
            raise ValueError(f"{folder} holds a {class_of(config)}; a {self.name} is needed")
        return config

    def load(self, folder: Path) -> Any:
        with needs(f"a {self.name}", "train"):
            from diffusers import VQModel
        return load_diffusers(VQModel, folder)

    def ids(self, network: Any, pixels: Any) -> Any:
        return network.quantize(network.encode(pixels).latents)[2][2]

    def pixels(self, network: Any, ids: Any) -> Any:
        # what VQModel.decode does, whether its config has lookup_from_codebook or not
        states = network.quantize.get_codebook_entry(ids.flatten(), (*ids.shape, -1))
        spatial = network.config.norm_type == "spatial"
        return network.decoder(network.post_quant_conv(states), states if spatial else None)


def _saved_side(said: Mapping[str, Any]) -> int | None:
    """Side of the square that a processor crops or resizes to."""
    for name in ("crop_size", "size") if said.get("do_center_crop") else ("size",):
        size = said.get(name)
        if isinstance(size, int):
            return size
        if isinstance(size, Mapping) and size.get("height") is not None:
            if size["height"] != size.get("width"):
                raise ValueError(f"{name} {dict(size)} is no square")
            return int(size["height"])
    return None
