"""Pictures as codes: a small VQ-VAE, one code for each 4x4 pixels.

diffusers' `VQModel` with the quantizer of `vector-quantize-pytorch`: k-means start, moving averages
and restarts of dead codes keep the whole codebook in use.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...extras import needs
from ...seeding import torch_seed
from . import CODE_SIZE
from .threads import one_thread

__all__ = ["Pictures"]

FOLD = CODE_SIZE
"""Pixels folded into channels before the first convolution: the width of one code."""
WIDTH = 64
DIM = 16
"""Entries of a code vector."""
BATCH = 16
RATE = 3e-3
CHUNK = 256
"""Pictures encoded or decoded at once."""


class Pictures:
    """Square RGB pictures <-> codes; `size` counts the codes and the end token."""

    kind = "discrete"

    def __init__(self, size_in_pixels: int, codes: int, weights: dict[str, Tensor]) -> None:
        self.pixels = size_in_pixels
        self.codes = codes
        self.size = codes + 1
        self.fixed_length = (size_in_pixels // FOLD) ** 2
        self._weights = weights
        self._net: nn.Module | None = None

    @classmethod
    def train(
        cls,
        images: np.ndarray,
        *,
        codes: int,
        steps: int,
        seed: int,
        report: Callable[[int, float], None] | None = None,
    ) -> Pictures:
        """Learns the codes of (n, s, s, 3) uint8 pictures; takes about 40 ms a step on one core.

        Args:
            report: called with (step, loss) now and then.
        """
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed))
            net = _build(codes)
            _fit(net, images, steps, seed, report)
        weights = {k: v.detach().contiguous().clone() for k, v in net.state_dict().items()}
        return cls(images.shape[1], codes, weights)

    def encode(self, images: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Codes of (s, s, 3) uint8 pictures, row by row: int64, (fixed_length,) each.

        Raises:
            ValueError: a picture of another size or type.
        """
        for image in images:
            if image.shape != (self.pixels, self.pixels, 3) or image.dtype != np.uint8:
                raise ValueError(
                    f"an image is {image.shape} {image.dtype}, but these codes are for "
                    f"({self.pixels}, {self.pixels}, 3) uint8; crop it to a square and resize it"
                )
        net = self._network()
        out: list[np.ndarray] = []
        with one_thread(), torch.inference_mode():
            for start in range(0, len(images), CHUNK):
                x = _to_unit(np.stack(list(images[start : start + CHUNK])))
                indices = net.quantize(net.quant_conv(net.encoder(x)))[1]
                out.extend(indices.flatten(1).numpy().astype(np.int64))
        return out

    def decode(self, codes: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
        """Pictures of code sequences, (s, s, 3) uint8 each.

        Raises:
            ValueError: a sequence of another length, or a code outside the codebook.
        """
        for ids in codes:
            self._check(np.asarray(ids))
        net, side = self._network(), self.pixels // FOLD
        out: list[np.ndarray] = []
        with torch.inference_mode():
            for start in range(0, len(codes), CHUNK):
                ids = torch.from_numpy(np.stack(list(codes[start : start + CHUNK]))).long()
                z = net.quantize.get_codes_from_indices(ids.view(-1, side, side))
                x = F.pixel_shuffle(net.decoder(net.post_quant_conv(z)), FOLD)
                pixels = ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)
                out.extend(pixels.permute(0, 2, 3, 1).numpy())
        return out

    def _check(self, ids: np.ndarray) -> None:
        if ids.shape != (self.fixed_length,):
            raise ValueError(
                f"an image has {self.fixed_length} codes, but {ids.shape} were given; "
                "leave out begin and end tokens"
            )
        if ids.min() < 0 or ids.max() >= self.codes:
            raise ValueError(
                f"image codes lie in 0..{self.codes - 1}, but {int(ids.min())}..{int(ids.max())} "
                "were given; the end token is no code"
            )

    def save(self, folder: Path) -> None:
        """Writes `picture.json` and `picture.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = {"pixels": self.pixels, "codes": self.codes}
        (folder / "picture.json").write_text(json.dumps(meta))
        save_file(self._weights, folder / "picture.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Pictures:
        meta = json.loads((folder / "picture.json").read_text())
        return cls(meta["pixels"], meta["codes"], load_file(folder / "picture.safetensors"))

    def _network(self) -> Any:
        if self._net is None:
            with torch.random.fork_rng(devices=[]):
                net = _build(self.codes)
            net.load_state_dict(self._weights)
            self._net = net.eval()
        return self._net


def _build(codes: int) -> Any:
    with needs("the image tokenizer", "train"):
        from diffusers.models.autoencoders.vq_model import VQModel
        from vector_quantize_pytorch import VectorQuantize
    net = VQModel(
        in_channels=3 * FOLD**2,
        out_channels=3 * FOLD**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        latent_channels=WIDTH,
        num_vq_embeddings=codes,
        norm_num_groups=8,
        vq_embed_dim=DIM,
        mid_block_add_attention=False,
    )
    net.quantize = VectorQuantize(
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
    return net.to(memory_format=torch.channels_last)


def _fit(
    net: Any,
    images: np.ndarray,
    steps: int,
    seed: int,
    report: Callable[[int, float], None] | None,
) -> None:
    rng = np.random.default_rng([seed, 11])
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    net.train()
    for step in range(steps):
        x = _to_unit(images[rng.integers(len(images), size=BATCH)])
        codes, _, commitment = net.quantize(net.quant_conv(net.encoder(x)))
        error = F.mse_loss(net.decoder(net.post_quant_conv(codes)), x)
        optimizer.zero_grad(set_to_none=True)
        (error + commitment.sum()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if report is not None and (step % max(1, steps // 6) == 0 or step == steps - 1):
            report(step, float(error.detach()))
    net.eval()


def _to_unit(images: np.ndarray) -> Tensor:
    """(n, s, s, 3) uint8 to (n, 48, s/4, s/4) float32 in -1..1, folded, channels last."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pixel_unshuffle(x, FOLD).contiguous(memory_format=torch.channels_last)
