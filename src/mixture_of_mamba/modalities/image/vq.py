"""Images as codes: a small VQ-VAE, one code for each 4x4 pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..codec import Codec
from ..options import VQOptions
from ..threads import one_thread
from .files import IMAGE, fit_image
from .networks import CHUNK, FOLD, to_pixels, to_unit
from .vq_network import build, train

__all__ = ["VQImageTokenizer"]

_META, _WEIGHTS = "picture.json", "picture.safetensors"


class VQImageTokenizer(Codec):
    """Square RGB images <-> codes, row by row; `size` counts the codes and the end token."""

    codec = "vq"
    media = IMAGE
    Options = VQOptions
    kind = "discrete"
    version = 2

    def __init__(self, options: VQOptions, weights: dict[str, Tensor]) -> None:
        self.options = options
        self.size = options.codes + 1
        self.fixed_length = options.fixed_length
        self._weights = weights
        self._network: nn.Module | None = None

    @classmethod
    def prepare(cls, item: np.ndarray, options: VQOptions) -> np.ndarray:
        return fit_image(item, options.size)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray] | np.ndarray,
        options: VQOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> VQImageTokenizer:
        """Learns the codes of (s, s, 3) uint8 images; takes about 40 ms a step on one core."""
        images, codes, steps = np.asarray(prepared), options.codes, options.steps
        network = train(images, codes=codes, steps=steps, seed=seed, report=report)
        weights = {k: v.detach().contiguous().clone() for k, v in network.state_dict().items()}
        return cls(options, weights)

    def encode(self, prepared: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Codes of (s, s, 3) uint8 images: int64, (fixed_length,) each.

        Raises:
            ValueError: an image of another size or type.
        """
        side = self.options.size
        for image in prepared:
            if image.shape != (side, side, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"an image is {image.shape} {image.dtype}, but these codes are for "
                    f"({side}, {side}, 3) uint8; crop it to a square and resize it"
                )
        network = self._loaded()
        out: list[np.ndarray] = []
        with one_thread(), torch.inference_mode():
            for start in range(0, len(prepared), CHUNK):
                x = to_unit(np.stack(list(prepared[start : start + CHUNK])))
                indices = network.quantize(network.quant_conv(network.encoder(x)))[1]
                out.extend(indices.flatten(1).numpy().astype(np.int64))
        return out

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of code sequences, (s, s, 3) uint8 each.

        Raises:
            ValueError: a sequence of another length, or a code outside the codebook.
        """
        for ids in tokens:
            self._check(np.asarray(ids))
        network, side = self._loaded(), self.options.size // FOLD
        out: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(tokens), CHUNK):
                codes = torch.from_numpy(np.stack(list(tokens[start : start + CHUNK]))).long()
                z = network.quantize.get_codes_from_indices(codes.view(-1, side, side))
                out.extend(to_pixels(network.decoder(network.post_quant_conv(z))))
        return out

    def _check(self, ids: np.ndarray) -> None:
        codes = self.options.codes
        if ids.shape != (self.fixed_length,):
            raise ValueError(
                f"an image has {self.fixed_length} codes, but {ids.shape} were given; "
                "leave out begin and end tokens"
            )
        if ids.min() < 0 or ids.max() >= codes:
            raise ValueError(
                f"image codes lie in 0..{codes - 1}, but {int(ids.min())}..{int(ids.max())} "
                "were given; the end token is no code"
            )

    def save(self, folder: Path) -> None:
        """Writes `picture.json` and `picture.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        options = self.options
        meta = {"pixels": options.size, "codes": options.codes, "steps": options.steps}
        (folder / _META).write_text(json.dumps(meta))
        save_file(self._weights, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> VQImageTokenizer:
        meta = json.loads((folder / _META).read_text())
        steps = meta.get("steps", VQOptions.steps)  # not recorded by version 0.1
        options = VQOptions(size=meta["pixels"], codes=meta["codes"], steps=steps)
        return cls(options, load_file(folder / _WEIGHTS))

    def _loaded(self) -> Any:
        if self._network is None:
            with torch.random.fork_rng(devices=[]):
                network = build(self.options.codes)
            network.load_state_dict(self._weights)
            self._network = network.eval()
        return self._network
