"""Saving, restoring and isolating the random number generators of a process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..seeding import torch_seed

__all__ = ["isolated_rng", "random_state", "set_random_state"]


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and PyTorch's generators (of every CUDA device too), fit for JSON."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": [bytes(s.tolist()).hex() for s in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue where `random_state` was taken."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes(s) for s in state["cuda"]])


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore every generator after it."""
    before = random_state()
    torch.manual_seed(torch_seed(seed))
    try:
        yield
    finally:
        set_random_state(before)


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
