"""Draws a scene: coloured digits on a softly textured 32x32 canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .config import SCENE_SIZE
from .facts import COLOURS, POSITIONS, Fact

__all__ = ["QUADRANT", "background", "draw", "quadrants"]

#: Side of the square in which a digit is drawn, pixels.
QUADRANT = SCENE_SIZE // 2


def _doubling() -> np.ndarray:
    """(16, 8): linear interpolation of 8 samples to 16."""
    matrix = np.zeros((16, 8), np.float32)
    for i in range(16):
        place = min(max((i + 0.5) / 2 - 0.5, 0.0), 7.0)
        low = min(int(place), 6)
        matrix[i, low], matrix[i, low + 1] = low + 1 - place, place - low
    return matrix


_DOUBLE = _doubling()


def enlarge(ink: np.ndarray) -> np.ndarray:
    """(8, 8) ink to (16, 16)."""
    return _DOUBLE @ ink @ _DOUBLE.T


def background(rng: np.random.Generator, size: int = SCENE_SIZE) -> np.ndarray:
    """A dark tinted slope with a wave across it, (size, size, 3) in about 0.02..0.35.

    Empty canvas is then something to predict: a model that has learnt only "black" pays for it.
    """
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    tint = rng.uniform(0.08, 0.24, 3).astype(np.float32)
    angle, turn = rng.uniform(0, 2 * np.pi, 2)
    slope = np.cos(turn) * grid[:, None] + np.sin(turn) * grid[None, :]
    along = np.cos(angle) * grid[:, None] + np.sin(angle) * grid[None, :]
    wave = np.sin(2 * np.pi * (rng.uniform(1.0, 4.0) * along + rng.random()))
    texture = rng.uniform(-0.08, 0.08) * slope + rng.uniform(0.02, 0.06) * wave
    return tint + texture[..., None].astype(np.float32)


def draw(facts: Sequence[Fact], inks: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The scene of `facts`, (32, 32, 3) uint8.

    Args:
        facts: the digits, at most one in a quadrant.
        inks: of each fact a handwritten sample, (8, 8) in 0..1.
        rng: draws the background.
    """
    canvas = background(rng)
    for fact, ink in zip(facts, inks, strict=True):
        row, column = divmod(POSITIONS.index(fact.position), 2)
        top, left = row * QUADRANT, column * QUADRANT
        view = canvas[top : top + QUADRANT, left : left + QUADRANT]
        cover = enlarge(ink)[..., None]
        view += cover * (np.asarray(COLOURS[fact.colour], np.float32) - view)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def quadrants(image: np.ndarray) -> np.ndarray:
    """(..., 32, 32, 3) to (..., 4, 16, 16, 3), in the order of POSITIONS."""
    lead = image.shape[:-3]
    tiles = image.reshape(*lead, 2, QUADRANT, 2, QUADRANT, 3)
    return np.moveaxis(tiles, -3, -4).reshape(*lead, 4, QUADRANT, QUADRANT, 3)
