"""Images as codes: a small VQ-VAE, one code for each 4x4 pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..codec import Codec
from ..options import CODE_SIZE, SquareImageOptions, at_least
from .codes import check_codes, check_image
from .files import IMAGE, fit_image

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["VQImageTokenizer", "VQOptions"]

_META, _WEIGHTS = "picture.json", "picture.safetensors"


@dataclass(frozen=True, kw_only=True)
class VQOptions(SquareImageOptions):
    """Of `vq`, codes of a VQ autoencoder, one for each 4x4 pixels."""

    training: ClassVar[tuple[str, ...]] = ("steps",)

    codes: int = 512
    """Entries of the codebook."""

    steps: int = 1200
    """Training steps, 16 images each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("codes", self.codes, 2)
        at_least("steps", self.steps, 1)

    @property
    def fixed_length(self) -> int:
        return (self.size // CODE_SIZE) ** 2


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
        from .vq_network import train

        images, codes, steps = np.asarray(prepared), options.codes, options.steps
        network = train(images, codes=codes, steps=steps, seed=seed, report=report)
        weights = {k: v.detach().contiguous().clone() for k, v in network.state_dict().items()}
        return cls(options, weights)

    def encode(self, prepared: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Codes of (s, s, 3) uint8 images: int64, (fixed_length,) each.

        Raises:
            ValueError: an image of another size or type.
        """
        for image in prepared:
            check_image(image, self.options.size, "these codes are")
        from .vq_network import codes_of

        return codes_of(self._loaded(), prepared)

    def decode(self, tokens: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Images of code sequences, (s, s, 3) uint8 each.

        Raises:
            ValueError: a sequence of another length, or a code outside the codebook.
        """
        for ids in tokens:
            check_codes(np.asarray(ids), self.fixed_length, self.options.codes)
        from .vq_network import images_of

        return images_of(self._loaded(), tokens, self.options.size // CODE_SIZE)

    def save(self, folder: Path) -> None:
        """Writes `picture.json` and `picture.safetensors`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        options = self.options
        meta = {"pixels": options.size, "codes": options.codes, "steps": options.steps}
        (folder / _META).write_text(json.dumps(meta))
        save_file(self._weights, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> VQImageTokenizer:
        from safetensors.torch import load_file

        meta = json.loads((folder / _META).read_text())
        steps = meta.get("steps", VQOptions.steps)  # not recorded by version 0.1
        options = VQOptions(size=meta["pixels"], codes=meta["codes"], steps=steps)
        return cls(options, load_file(folder / _WEIGHTS))

    def _loaded(self) -> Any:
        if self._network is None:
            from .vq_network import loaded

            self._network = loaded(self._weights, self.options.codes)
        return self._network
