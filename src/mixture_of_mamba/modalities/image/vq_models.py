"""Images as codes of networks that other people trained: Janus, Emu3, Chameleon, VQModel.

A codec here is a `VQNetwork`, which says how one class is read and called, with its options.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..codec import Codec
from ..pretrained import PretrainedOptions, quiet
from .codes import check_codes, check_image
from .files import IMAGE, fit_image
from .pixel_scale import PixelScale
from .vq_networks import PARTS, Chameleon, Diffusers, Emu3, Facts, Janus, VQNetwork

__all__ = [
    "ChameleonCodec",
    "ChameleonOptions",
    "Emu3Codec",
    "Emu3Options",
    "JanusCodec",
    "JanusOptions",
    "VQCodec",
    "VQModelCodec",
    "VQModelOptions",
    "VQNetworkOptions",
]

_META, _NETWORK = "codec.json", "network"


@dataclass(frozen=True, kw_only=True)
class VQNetworkOptions(PretrainedOptions):
    """Of a codec whose ids are the codes of a VQ autoencoder, row by row.

    Attributes:
        network: its class.
    """

    network: ClassVar[VQNetwork]
    parts: ClassVar[tuple[str, ...]] = PARTS

    size: int | None = None
    """Side of an image in pixels; your own images are cropped to a square and resized to it. None:
    what the network's files name."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1")

    @property
    def side(self) -> int:
        """Of an image in pixels, asked of the files where it was not given.

        Raises:
            FileNotFoundError, ValueError: the files do not say it.
        """
        return self.size if self.size is not None else _side(self, self.network.facts(self.folder))

    @property
    def fixed_length(self) -> int | None:
        """None where the files are elsewhere, or wrong: that is for `check_files` to say."""
        if (folder := self.known_folder) is None:
            return None
        try:
            facts = self.network.facts(folder)
            return (_side(self, facts) // facts.factor) ** 2
        except (FileNotFoundError, ValueError):
            return None

    def check_files(self) -> None:
        from .vq_inference import try_out  # torch, which options need not

        with self.reading() as folder:
            facts = self.network.facts(folder)
            PixelScale.of_folder(folder, self.network.scale)
        _side(self, facts)
        with self.reading():
            try_out(self.network, self.network.load(folder), facts, folder)

    def completed(self) -> Self:
        return replace(self, size=self.side)


class VQCodec(Codec):
    """Square RGB images <-> codes of a network; `size` counts the codes and the end token.

    A subclass gives `codec` and `Options`, whose `network` is the class of the network.

    Args:
        options: with the size.
        folder: of the network; it is loaded from there when it is first needed.
        scale: of its pixels.
    """

    media = IMAGE
    Options: ClassVar[type[VQNetworkOptions]]
    kind = "discrete"

    def __init__(self, options: VQNetworkOptions, folder: Path, scale: PixelScale) -> None:
        self.options = options
        self._folder, self._scale = folder, scale
        facts = options.network.facts(folder)
        self._grid = _side(options, facts) // facts.factor
        self._codes = facts.codes
        self.size = facts.codes + 1
        self.fixed_length = self._grid**2
        self.cannot_decode = options.network.cannot_decode
        self._loaded: Any = None

    @classmethod
    def prepare(cls, item: np.ndarray, options: VQNetworkOptions) -> np.ndarray:
        return fit_image(item, options.side)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray] | np.ndarray,
        options: VQNetworkOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> Self:
        """The codec of the network in the folder `options.pretrained`; learns nothing of images.

        Raises:
            FileNotFoundError, ValueError: the folder holds no network that fits.
        """
        folder, network = options.folder, cls.Options.network
        known = replace(options.completed(), pretrained=None)
        codec = cls(known, folder, PixelScale.of_folder(folder, network.scale))
        codec._network()  # kept, should the folder go
        report(
            f"{network.name}: {codec.fixed_length} codes of {codec._codes:,} for an image of "
            f"{codec.options.size} pixels"
        )
        return codec

    def encode(self, prepared: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Codes of (s, s, 3) uint8 images: int64, (fixed_length,) each.

        Raises:
            ValueError: an image of another size or type.
        """
        from .vq_inference import ids_of

        for image in prepared:
            check_image(image, self.options.size, f"this {self.codec} codec is")
        values = map(self._scale.to_network, prepared)
        return ids_of(self.options.network, self._network(), values)

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of code sequences, (s, s, 3) uint8 each.

        Raises:
            ValueError: a sequence of another length, a code outside the codebook, or a network that
                only encodes.
        """
        from .vq_inference import values_of

        if self.cannot_decode is not None:
            raise ValueError(self.cannot_decode)
        arrays = [np.asarray(ids) for ids in tokens]
        for ids in arrays:
            check_codes(ids, self.fixed_length, self._codes)
        grids = [ids.reshape(self._grid, self._grid) for ids in arrays]
        made = values_of(self.options.network, self._network(), grids)
        return [self._scale.to_pixels(values) for values in made]

    def save(self, folder: Path) -> None:
        """Writes `network/` in its library's format, and `codec.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self._network().save_pretrained(folder / _NETWORK, safe_serialization=True)
        meta = {"size": self.options.size, "scale": self._scale.to_json()}
        (folder / _META).write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        meta = json.loads((folder / _META).read_text())
        options = cls.Options(size=meta["size"])
        return cls(options, folder / _NETWORK, PixelScale.from_json(meta["scale"]))

    def _network(self) -> Any:
        if self._loaded is None:
            self._loaded = self.options.network.load(self._folder)
        return self._loaded


def _side(options: VQNetworkOptions, facts: Facts) -> int:
    """Of an image, in pixels."""
    name, factor = options.network.name, facts.factor
    side = options.size if options.size is not None else facts.side
    if side is None:
        raise ValueError(
            f"size is missing, and the files of this {name} name none; give the side of an image "
            f"in pixels, a multiple of {factor}"
        )
    if side % factor:
        raise ValueError(
            f"size is {side}, but a code of this {name} stands for {factor}x{factor} pixels; "
            f"choose a multiple of {factor}, such as {max(1, round(side / factor)) * factor}"
        )
    return side


class JanusOptions(VQNetworkOptions):
    """Of `janus`, codes of transformers' JanusVQVAE."""

    network = Janus()


class JanusCodec(VQCodec):
    codec = "janus"
    Options = JanusOptions


class Emu3Options(VQNetworkOptions):
    """Of `emu3`, codes of transformers' Emu3VQVAE; an image is a clip that stands still."""

    network = Emu3()


class Emu3Codec(VQCodec):
    codec = "emu3"
    Options = Emu3Options


class ChameleonOptions(VQNetworkOptions):
    """Of `chameleon`, codes of transformers' ChameleonVQVAE, which cannot draw."""

    network = Chameleon()


class ChameleonCodec(VQCodec):
    codec = "chameleon"
    Options = ChameleonOptions


class VQModelOptions(VQNetworkOptions):
    """Of `vqmodel`, codes of diffusers' VQModel."""

    network = Diffusers()


class VQModelCodec(VQCodec):
    codec = "vqmodel"
    Options = VQModelOptions
