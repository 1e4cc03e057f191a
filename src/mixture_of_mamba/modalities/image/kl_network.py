"""Trains the network of the KL autoencoder: a small diffusers `AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...extras import needs
from ...seeding import torch_seed
from .networks import build_network, to_unit

__all__ = ["train"]

#: Entries of one latent cell.
CHANNELS = 8
KL_WEIGHT = 1e-4
#: Images in a training step.
BATCH = 32
LEARNING_RATE = 2e-3


def train(
    images: np.ndarray,
    *,
    steps: int,
    seed: int,
    report: Callable[[int, float], None] | None = None,
) -> Any:
    """A small AutoencoderKL for images (n, s, s, 3) uint8; squared error plus a little KL.

    Args:
        report: called with (step, mean squared error) now and then.
    """
    with needs("the image autoencoder", "train"):
        from diffusers import AutoencoderKL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        network = build_network(AutoencoderKL, CHANNELS)
        network.to(torch.float32, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=0.1
        )
        rng = np.random.default_rng([seed, 23])
        network.train()
        for step in range(steps):
            x = to_unit(images[rng.integers(len(images), size=BATCH)])
            posterior = network.encode(x).latent_dist
            error = F.mse_loss(network.decode(posterior.sample()).sample, x)
            optimizer.zero_grad(set_to_none=True)
            (error + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if report is not None and (step % max(1, steps // 6) == 0 or step == steps - 1):
                report(step, float(error.detach()))
    return network.eval()
