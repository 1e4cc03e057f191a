"""The network of the KL autoencoder: trained here, or any diffusers `AutoencoderKL` of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...extras import needs
from ...seeding import torch_seed
from .networks import build_network, to_unit

__all__ = ["folded_side", "read", "train"]

#: Entries of one latent cell.
CHANNELS = 8
KL_WEIGHT = 1e-4
#: Images in a training step.
BATCH = 32
LEARNING_RATE = 2e-3


def read(folder: Path) -> Any:
    """The AutoencoderKL of a local folder; never a pickle, never the network.

    Raises:
        FileNotFoundError: no config.json or no weights there.
        ValueError: another class, damaged weights, or weights that do not fit the config.
    """
    with needs("an autoencoder's latents", "train"):
        from diffusers import AutoencoderKL
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no autoencoder: config.json is missing; give a folder that diffusers' "
            "AutoencoderKL.save_pretrained wrote, or leave it out to train one"
        )
    kind = json.loads((folder / "config.json").read_text()).get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise ValueError(f"{folder} holds a {kind}; an AutoencoderKL is needed")
    if not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no .safetensors weights; save the autoencoder again with "
            "save_pretrained(…, safe_serialization=True)"
        )
    try:
        return AutoencoderKL.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        ).float()
    except Exception as error:  # diffusers raises many kinds for weights that do not fit
        raise ValueError(f"the autoencoder in {folder} cannot be loaded: {error}") from error


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


def folded_side(network: Any) -> int:
    """Side of the square of pixels that is folded into the network's input channels."""
    channels = int(network.config.in_channels)
    fold = round((channels / 3) ** 0.5)
    if 3 * fold**2 != channels or channels != int(network.config.out_channels):
        raise ValueError(
            f"the autoencoder has {channels} input and {network.config.out_channels} output "
            "channels; 3 (RGB), or 3 times a square for folded pixels, are needed"
        )
    return fold
