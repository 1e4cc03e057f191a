"""VQ networks at work: images one at a time, several at the same time, each on one thread.

The last digits of a sum decide between codes, and they depend on the batch and on the number of
threads. So neither has a say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..pretrained import loading
from ..threads import one_thread
from .vq_networks import Facts, VQNetwork

__all__ = ["ids_of", "try_out", "values_of"]

#: Images that are in work at the same time; each takes the memory of a forward pass.
AT_ONCE = 16


def ids_of(kind: VQNetwork, network: Any, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Codes of images, (3, s, s) float32 each: int64, row by row."""

    def ids(image: np.ndarray) -> np.ndarray:
        found = kind.ids(network, torch.from_numpy(image)[None])
        return np.asarray(found.reshape(-1).numpy(), np.int64)

    return list(_each(ids, images))


def values_of(kind: VQNetwork, network: Any, grids: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Images, (3, s, s) float32 each, of codes, (h, w) each."""

    def values(grid: np.ndarray) -> np.ndarray:
        return np.asarray(kind.pixels(network, torch.from_numpy(grid).long()[None])[0].numpy())

    return list(_each(values, grids))


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


def _each(
    make: Callable[[np.ndarray], np.ndarray], items: Iterable[np.ndarray]
) -> Iterator[np.ndarray]:
    """`make` of every item, in order; no more items are drawn than are in work."""

    def alone(item: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return make(item)

    workers = min(torch.get_num_threads(), AT_ONCE)
    with one_thread():
        if workers == 1:
            yield from map(alone, items)
            return
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            waiting: deque[Future[np.ndarray]] = deque()
            for item in items:
                if len(waiting) == workers:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(alone, item))
            while waiting:
                yield waiting.popleft().result()
