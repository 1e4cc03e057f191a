"""Images as codes: a small VQ-VAE, one code for each 4x4 pixels.

diffusers' `VQModel` with the quantizer of `vector-quantize-pytorch`: k-means initialisation, moving
averages and restarts of dead codes keep the whole codebook in use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...extras import needs
from ...seeding import torch_seed
from ..codec import Codec
from ..options import VQOptions
from .files import IMAGE, fit_image
from .networks import CHUNK, FOLD, build_network, to_pixels, to_unit

__all__ = ["VQImageTokenizer"]

#: Channels in front of the quantizer.
WIDTH = 64
#: Entries of a code vector.
DIM = 16
#: Images in a training step.
BATCH = 16
LEARNING_RATE = 3e-3

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
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed))
            network = _build(options.codes)
            _train(network, np.asarray(prepared), options.steps, seed, report)
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
                network = _build(self.options.codes)
            network.load_state_dict(self._weights)
            self._network = network.eval()
        return self._network


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes on one thread inside the block, so that results, whose last digits decide
    between codes, do not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _build(codes: int) -> Any:
    with needs("the image tokenizer", "train"):
        from diffusers.models.autoencoders.vq_model import VQModel
        from vector_quantize_pytorch import VectorQuantize
    network = build_network(VQModel, WIDTH, num_vq_embeddings=codes, vq_embed_dim=DIM)
    network.quantize = VectorQuantize(
        dim=DIM,
        codebook_size=codes,
        accept_image_fmap=True,
        kmeans_init=True,
        kmeans_iters=10,
        decay=0.95,
        threshold_ema_dead_code=1,
        commitment_weight=0.5,
        sync_codebook=False,  # one process of a distributed run fits it while the others wait
    )
    return network.to(memory_format=torch.channels_last)


def _train(
    network: Any, images: np.ndarray, steps: int, seed: int, report: Callable[[str], None]
) -> None:
    rng = np.random.default_rng([seed, 11])
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4
    )
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    network.train()
    for step in range(steps):
        x = to_unit(images[rng.integers(len(images), size=BATCH)])
        codes, _, commitment = network.quantize(network.quant_conv(network.encoder(x)))
        error = F.mse_loss(network.decoder(network.post_quant_conv(codes)), x)
        optimizer.zero_grad(set_to_none=True)
        (error + commitment.sum()).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 6) == 0 or step == steps - 1:
            report(f"image tokenizer: step {step} of {steps}, error {float(error.detach()):.4f}")
    network.eval()
