"""What both image autoencoders are made of: folded pixels and diffusers' convolutional network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..options import CODE_SIZE

__all__ = ["FOLD", "build_network", "to_pixels", "to_unit"]

#: Side of the square of pixels that is folded into channels before the first convolution.
FOLD = CODE_SIZE
#: Channels of the convolutions.
WIDTH = 64


def build_network(network_class: Any, latent_channels: int, **fields: Any) -> Any:
    """A small diffusers autoencoder (AutoencoderKL or VQModel) on folded RGB pixels."""
    return network_class(
        in_channels=3 * FOLD**2,
        out_channels=3 * FOLD**2,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        **fields,
    )


def to_unit(images: np.ndarray, fold: int = FOLD) -> Tensor:
    """(n, s, s, 3) uint8 to (n, 3 fold², s / fold, s / fold) float32 in -1..1, channels last."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pixel_unshuffle(x, fold).contiguous(memory_format=torch.channels_last)


def to_pixels(output: Tensor, fold: int = FOLD) -> np.ndarray:
    """What a decoder gives, folded and in -1..1, to (n, s, s, 3) uint8; clipped."""
    x = F.pixel_shuffle(output, fold)
    pixels = ((x.clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()
