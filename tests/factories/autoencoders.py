"""Tiny random autoencoders of each of diffusers' classes that make image latents, in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "make", "scaled_latents"]

_KL: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
_DC: dict[str, Any] = {
    "encoder_block_out_channels": (8,) * 6,
    "decoder_block_out_channels": (8,) * 6,
    "encoder_layers_per_block": (1,) * 6,
    "decoder_layers_per_block": (1,) * 6,
    "encoder_qkv_multiscales": ((),) * 6,
    "decoder_qkv_multiscales": ((),) * 6,
    "latent_channels": 8,
    "scaling_factor": 0.41407,
}

#: By a name: class, config, pixels of a latent, and channels. As in the releases: KL of Stable
#: Diffusion, of FLUX.1 and of SDXL's variants with a mean, FLUX.2's, Qwen-Image's, Sana's, TAESD.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "kl4": ("AutoencoderKL", {**_KL, "latent_channels": 4, "scaling_factor": 0.18215}, 8, 4),
    "kl16": (
        "AutoencoderKL",
        {
            **_KL,
            "latent_channels": 16,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
        8,
        16,
    ),
    "kl-mean": (
        "AutoencoderKL",
        {
            **_KL,
            "latent_channels": 4,
            "scaling_factor": 0.5,
            "latents_mean": [0.1, -0.2, 0.3, 0.0],
            "latents_std": [2.0, 3.0, 0.5, 1.0],
        },
        8,
        4,
    ),
    "flux2": (
        "AutoencoderKLFlux2",
        {**_KL, "layers_per_block": 1, "latent_channels": 8, "sample_size": 32},
        8,
        8,
    ),
    "qwen": (
        "AutoencoderKLQwenImage",
        {
            "base_dim": 8,
            "z_dim": 4,
            "dim_mult": [1, 1, 2, 2],
            "num_res_blocks": 1,
            "latents_mean": [0.1, -0.2, 0.3, 0.0],
            "latents_std": [2.0, 3.0, 0.5, 1.0],
        },
        8,
        4,
    ),
    "dc": ("AutoencoderDC", _DC, 32, 8),
    "tiny": (
        "AutoencoderTiny",
        {
            "encoder_block_out_channels": (8,) * 4,
            "decoder_block_out_channels": (8,) * 4,
            "num_encoder_blocks": (1,) * 4,
            "num_decoder_blocks": (1,) * 4,
            "scaling_factor": 1.5,
            "shift_factor": 0.25,
        },
        8,
        4,
    ),
}


def make(name: str, folder: Path) -> Any:
    """One of NETWORKS with weights from a seed, saved as diffusers does."""
    import diffusers

    class_name, config, _, _ = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sum(name.encode()))
        network: Any = getattr(diffusers, class_name)(**config)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.1, 2)
    network.eval().save_pretrained(folder)
    return network


def scaled_latents(name: str, network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of images (n, 3, h, w) in -1..1 at the scale of the class's own diffusion models, and
    what is decoded from them; by the network's methods and its pipelines' formulas."""
    config = network.config

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values).view(1, -1, 1, 1)

    def kl() -> tuple[Tensor, Tensor]:
        z = network.encode(x).latent_dist.mean
        return (z - (config.shift_factor or 0)) * config.scaling_factor, network.decode(z).sample

    def kl_mean() -> tuple[Tensor, Tensor]:
        z = network.encode(x).latent_dist.mean
        centred = z - column(config.latents_mean)
        scaled = centred * config.scaling_factor / column(config.latents_std)
        return scaled, network.decode(z).sample

    def flux2() -> tuple[Tensor, Tensor]:
        z = network.encode(x).latent_dist.mean
        packed = network.bn(nn.functional.pixel_unshuffle(z, 2))
        return nn.functional.pixel_shuffle(packed, 2), network.decode(z).sample

    def qwen() -> tuple[Tensor, Tensor]:
        z = network.encode(x.unsqueeze(2)).latent_dist.mean
        scaled = (z.squeeze(2) - column(config.latents_mean)) / column(config.latents_std)
        return scaled, network.decode(z).sample.squeeze(2)

    def dc() -> tuple[Tensor, Tensor]:
        z = network.encode(x).latent
        return z * config.scaling_factor, network.decode(z).sample

    def tiny() -> tuple[Tensor, Tensor]:
        z = network.encode(x).latents
        return (z - config.shift_factor) * config.scaling_factor, network.decode(z).sample

    formulas: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "kl4": kl,
        "kl16": kl,
        "kl-mean": kl_mean,
        "flux2": flux2,
        "qwen": qwen,
        "dc": dc,
        "tiny": tiny,
    }
    with torch.no_grad():
        return formulas[name]()
