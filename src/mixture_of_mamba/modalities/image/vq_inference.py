"""VQ networks at work: images one at a time, several at the same time, each on one thread.

The last digits of a sum decide between codes, and they depend on the batch and on the number of
threads. So neither has a say.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..pretrained import loading
from ..threads import each_alone
from .vq_networks import Facts, VQNetwork

__all__ = ["ids_of", "try_out", "values_of"]


def ids_of(kind: VQNetwork, network: Any, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Codes of images, (3, s, s) float32 each: int64, row by row."""

    def ids(image: np.ndarray) -> np.ndarray:
        found = kind.ids(network, torch.from_numpy(image)[None])
        return np.asarray(found.reshape(-1).numpy(), np.int64)

    return list(each_alone(ids, images))


def values_of(kind: VQNetwork, network: Any, grids: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Images, (3, s, s) float32 each, of codes, (h, w) each."""

    def values(grid: np.ndarray) -> np.ndarray:
        return np.asarray(kind.pixels(network, torch.from_numpy(grid).long()[None])[0].numpy())

    return list(each_alone(values, grids))


def try_out(kind: VQNetwork, network: Any, facts: Facts, folder: Path) -> None:
    """Take a small black image through a network, there and back: a config may describe layers that
    do not fit together.

    Raises:
        ValueError: it fails, or gives another number of codes or pixels than its config says.
    """
    side = 2 * facts.factor
    with loading(folder, kind.name):
        black = np.zeros((3, side, side), np.float32)
        (ids,) = ids_of(kind, network, [black])
        if ids.shape != (4,) or ids.max() >= facts.codes:
            raise ValueError(f"it makes {ids.shape} codes of an image that has 4")
        if kind.cannot_decode is None:
            (again,) = values_of(kind, network, [ids.reshape(2, 2)])
            if again.shape != black.shape:
                raise ValueError(f"it makes an image of {again.shape} of one of {black.shape}")
