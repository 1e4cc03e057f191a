"""Random generators of initial values: one per parameter and expert."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ..seeding import whole_number

__all__ = ["expert_generators", "parameter_generator"]


def parameter_generator(
    seed: int | None, name: str, expert: int, like: Tensor
) -> torch.Generator | None:
    """A generator of its own for (seed, name, expert); None (the global one) without a seed, or on
    the meta device.

    Variants of a model share the values that they have in common: expert 0 of a split projection
    draws what the dense projection draws, and every further expert draws its own.

    Raises:
        TypeError: a seed that is no whole number.
    """
    if seed is None or like.device.type == "meta":
        return None
    digest = hashlib.sha256(f"{whole_number(seed)}/{name}/{expert}".encode()).digest()
    generator = torch.Generator(device=like.device)
    generator.manual_seed(int.from_bytes(digest[:7], "little"))
    return generator


def expert_generators(
    seed: int | None, name: str, n_experts: int, like: Tensor
) -> Iterator[torch.Generator | None]:
    """One generator per expert."""
    for expert in range(n_experts):
        yield parameter_generator(seed, name, expert, like)
