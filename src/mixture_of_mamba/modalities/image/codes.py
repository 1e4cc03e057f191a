"""What every codec that makes codes of images asks of its input."""

from __future__ import annotations

import numpy as np

__all__ = ["check_codes", "check_image"]


def check_image(image: np.ndarray, side: int | None, what: str) -> None:
    """Hold an image against (side, side, 3) uint8.

    Args:
        what: is for such images, in messages: "these codes are" for them.

    Raises:
        ValueError: another size or type.
    """
    if image.shape != (side, side, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"an image is {image.shape} {image.dtype}, but {what} for ({side}, {side}, 3) uint8; "
            "crop it to a square and resize it"
        )


def check_codes(ids: np.ndarray, length: int | None, codes: int) -> None:
    """Hold the ids of an image against their number and the codebook's.

    Raises:
        ValueError: another number of them, or one that is no code.
    """
    if ids.shape != (length,):
        raise ValueError(
            f"an image has {length} codes, but {ids.shape} were given; "
            "leave out begin and end tokens"
        )
    if ids.min() < 0 or ids.max() >= codes:
        raise ValueError(
            f"image codes lie in 0..{codes - 1}, but {int(ids.min())}..{int(ids.max())} "
            "were given; the end token is no code"
        )
