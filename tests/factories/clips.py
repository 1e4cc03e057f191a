"""Clips of moving squares."""

from __future__ import annotations

import numpy as np

from mixture_of_mamba.modalities.video_files import Clip

__all__ = ["moving_square"]


def moving_square(
    frames: int, *, size: tuple[int, int] = (16, 16), rate: float = 4.0, seed: int = 0
) -> Clip:
    """A bright square that goes from left to right on a dark ground.

    Args:
        size: width and height in pixels.
        seed: of the colour and the height at which it goes.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    side = min(width, height) // 3
    colour, top = rng.integers(120, 256, 3), int(rng.integers(0, height - side))
    made = np.full((frames, height, width, 3), 30, np.uint8)
    for i, left in enumerate(np.linspace(0, width - side, frames).round().astype(int)):
        made[i, top : top + side, left : left + side] = colour
    return Clip(made, rate)
