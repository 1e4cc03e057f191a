"""In which order the patches of a picture are read."""

from __future__ import annotations

import numpy as np

__all__ = ["ORDERS", "patch_order"]

ORDERS = ("rows", "z")


def patch_order(side: int, kind: str) -> np.ndarray:
    """(side * side,) int64: the patch, counted row by row, that each token stands for.

    Args:
        side: patches in a row of the picture.
        kind: "rows": row by row. "z": along a Z-order curve, quarter by quarter at every scale, so
            that patches near in the picture stay near in the sequence.

    Raises:
        ValueError: an order that does not exist.
    """
    if kind not in ORDERS:
        raise ValueError(f"patch_order is {kind!r}; choose from {', '.join(ORDERS)}")
    patches = np.arange(side * side)
    if kind == "rows":
        return patches
    row, column = np.divmod(patches, side)
    place = np.zeros_like(patches)
    for bit in range(max(1, side.bit_length())):
        place |= ((column >> bit) & 1) << (2 * bit) | ((row >> bit) & 1) << (2 * bit + 1)
    return np.argsort(place, kind="stable")
