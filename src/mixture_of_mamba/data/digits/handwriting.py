"""Real handwritten digits (scikit-learn's `load_digits`), split by handwritten sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...extras import needs

__all__ = ["Handwriting", "load_handwriting"]

HELD_OUT = 0.2
"""Share of the handwritten samples that only validation scenes use."""


@dataclass(frozen=True)
class Handwriting:
    """Handwritten digits of one split.

    Attributes:
        ink: (n, 8, 8) float32 in 0..1.
        labels: (n,) int64, 0..9.
    """

    ink: np.ndarray
    labels: np.ndarray

    def draw(self, digit: int, rng: np.random.Generator) -> np.ndarray:
        """One sample of `digit`, (8, 8)."""
        candidates = np.flatnonzero(self.labels == digit)
        return self.ink[candidates[rng.integers(len(candidates))]]


def load_handwriting(seed: int) -> dict[str, Handwriting]:
    """The 1,797 samples, split into "train" and "validation" with no sample in both."""
    with needs("the embedded digit scenes", "train"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    ink = (digits.images / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    order = np.random.default_rng([seed, 1]).permutation(len(labels))
    held = int(len(order) * HELD_OUT)
    parts = {"train": order[held:], "validation": order[:held]}
    return {name: Handwriting(ink[part], labels[part]) for name, part in parts.items()}
