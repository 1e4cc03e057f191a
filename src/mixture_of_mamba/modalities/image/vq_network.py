"""The network of the VQ tokenizer: diffusers' `VQModel` with the quantizer of
`vector-quantize-pytorch`, and its training on one thread."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...extras import needs
from ...seeding import torch_seed
from ..threads import one_thread
from .networks import build_network, to_unit

__all__ = ["build", "train"]

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
