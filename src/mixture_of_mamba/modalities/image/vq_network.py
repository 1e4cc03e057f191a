"""The network of the VQ tokenizer: diffusers' `VQModel` with the quantizer of
`vector-quantize-pytorch`: trained on one thread, and at work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...extras import needs
from ...seeding import torch_seed
from ..threads import each_alone, one_thread
from .networks import build_network, to_pixels, to_unit

__all__ = ["build", "codes_of", "images_of", "loaded", "train"]

#: Channels in front of the quantizer.
WIDTH = 64
#: Entries of a code vector.
DIM = 16
#: Images in a training step.
BATCH = 16
LEARNING_RATE = 3e-3


def build(codes: int) -> Any:
    """A network with so many codes, not yet trained."""
    with needs("the image tokenizer", "train"):
        from diffusers.models.autoencoders.vq_model import VQModel
        from vector_quantize_pytorch import VectorQuantize
    network = build_network(VQModel, WIDTH, num_vq_embeddings=codes, vq_embed_dim=DIM)
    # k-means initialisation, moving averages and restarts of dead codes keep the codebook in use
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


def train(
    images: np.ndarray, *, codes: int, steps: int, seed: int, report: Callable[[str], None]
) -> Any:
    """A trained network for images (n, s, s, 3) uint8; about 40 ms a step on one core."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        network = build(codes)
        _train(network, images, steps, seed, report)
    return network


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


def loaded(weights: Mapping[str, Tensor], codes: int) -> Any:
    """A trained network from its weights."""
    with torch.random.fork_rng(devices=[]):
        network = build(codes)
    network.load_state_dict(weights)
    return network.eval()


def codes_of(network: Any, images: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """Codes of (s, s, 3) uint8 images, row by row: (codes,) int64 each."""

    def codes(image: np.ndarray) -> np.ndarray:
        x = to_unit(np.stack([image]))  # a copy: the image may be one that cannot be written to
        indices = network.quantize(network.quant_conv(network.encoder(x)))[1]
        return np.asarray(indices.flatten().numpy(), np.int64)

    return list(each_alone(codes, images))


def images_of(
    network: Any, codes: Sequence[np.ndarray] | np.ndarray, side: int
) -> list[np.ndarray]:
    """(s, s, 3) uint8 images of codes, `side` x `side` of them each."""

    def image(ids: np.ndarray) -> np.ndarray:
        grid = torch.from_numpy(np.asarray(ids)).long().view(1, side, side)
        z = network.quantize.get_codes_from_indices(grid)
        return to_pixels(network.decoder(network.post_quant_conv(z)))[0]

    return list(each_alone(image, codes))
