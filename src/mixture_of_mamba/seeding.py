"""Seeds: any whole number is valid, whatever range the generator accepts."""

from __future__ import annotations

import hashlib
import operator
from typing import SupportsIndex

__all__ = ["torch_seed", "whole_number"]


def whole_number(seed: SupportsIndex, name: str = "seed") -> int:
    """The seed as a Python int.

    Raises:
        TypeError: it is not an integer; 2e13 and "7" are not.
    """
    try:
        return operator.index(seed)
    except TypeError:
        raise TypeError(f"{name} is {seed!r}; give a whole number") from None


def torch_seed(seed: SupportsIndex) -> int:
    """The value for `torch.Generator.manual_seed`: the seed itself, or a hash of it where it
    exceeds the 64 bits that torch takes.

    Raises:
        TypeError: see `whole_number`.
    """
    number = whole_number(seed)
    if -(1 << 63) <= number < 1 << 64:
        return number
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "little")
