"""Reads digits, colours and places out of a picture: an eye that knows nothing of the models.

A support vector machine (scikit-learn) trained on the training split's handwriting, drawn into
quadrants as the scenes draw it. It judges generated pictures, and the image tokenizer's
reconstructions, which are the ceiling for pictures generated from image tokens.
"""

from __future__ import annotations

import numpy as np

from ...extras import needs
from .canvas import QUADRANT, draw, quadrants
from .facts import COLOURS, POSITIONS, Fact
from .handwriting import Handwriting, load_handwriting

__all__ = ["SceneReader"]

VIEWS = 3
"""Drawings of each handwritten sample that the machine learns from."""
INK = 0.35
"""Coverage from which a pixel counts as written on."""
WRITTEN = 12
"""Written pixels of 256 from which a quadrant counts as occupied."""

_NAMES = list(COLOURS)
_PALETTE = np.array([COLOURS[name] for name in _NAMES], np.float32)


class SceneReader:
    """Facts of pictures; trained in about a second."""

    def __init__(self, seed: int = 0) -> None:
        """Trains on the training handwriting of the data seed `seed`."""
        with needs("judging pictures", "train"):
            from sklearn.svm import SVC
        handwriting = load_handwriting(seed)["train"]
        tiles, labels = drawn_digits(handwriting, seed, VIEWS)
        cover, _ = _cover(tiles)
        self._machine = SVC(C=10.0, gamma="scale").fit(_features(cover), labels)

    def digits(self, tiles: np.ndarray) -> np.ndarray:
        """(n,) the digit 0..9 that each (16, 16, 3) uint8 tile most looks like."""
        return self._machine.predict(_features(_cover(tiles)[0]))

    def read(self, images: np.ndarray) -> list[set[Fact]]:
        """The facts that (n, 32, 32, 3) uint8 pictures show."""
        if images.ndim != 4 or images.shape[1:] != (2 * QUADRANT, 2 * QUADRANT, 3):
            raise ValueError(
                f"images have shape {images.shape}; pictures of scenes are "
                f"(n, {2 * QUADRANT}, {2 * QUADRANT}, 3)"
            )
        if not len(images):
            return []
        tiles = quadrants(images).reshape(-1, QUADRANT, QUADRANT, 3)
        cover, colours = _cover(tiles)
        written = (cover > INK).sum((1, 2)) >= WRITTEN
        digits = self._machine.predict(_features(cover))
        facts: list[set[Fact]] = [set() for _ in images]
        for i in np.flatnonzero(written):
            image, place = divmod(int(i), len(POSITIONS))
            facts[image].add(Fact(int(digits[i]), _NAMES[colours[i]], POSITIONS[place]))
        return facts


def drawn_digits(handwriting: Handwriting, seed: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Every sample in `views` random colours, places and backgrounds.

    Returns:
        (n * views, 16, 16, 3) uint8 tiles and their (n * views,) digits.
    """
    rng = np.random.default_rng([seed, 7])
    tiles = []
    for ink, label in zip(handwriting.ink, handwriting.labels, strict=True):
        for _ in range(views):
            place = int(rng.integers(4))
            fact = Fact(int(label), _NAMES[rng.integers(len(_NAMES))], POSITIONS[place])
            tiles.append(quadrants(draw([fact], [ink], rng))[place])
    return np.stack(tiles), np.repeat(handwriting.labels, views)


def _cover(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel is written on, and the colour (index) it is written in.

    Tries every colour: a pixel is background + cover * (colour - background); the colour that
    leaves the least unexplained wins.

    Returns:
        (n, 16, 16) float32 in 0..1 and (n,) int64.
    """
    x = tiles.astype(np.float32) / 255
    ground = np.median(np.concatenate([x[:, :, 0], x[:, :, -1], x[:, 0], x[:, -1]], 1), axis=1)
    ground = np.minimum(ground, 0.35)[:, None, None, :]
    rest = np.empty((len(_PALETTE), len(x)), np.float32)
    covers = np.empty((len(_PALETTE), *x.shape[:3]), np.float32)
    for i, colour in enumerate(_PALETTE):
        step = colour - ground
        part = ((x - ground) * step).sum(-1) / (step**2).sum(-1)
        covers[i] = np.clip(part, 0, 1)
        rest[i] = ((x - ground - covers[i][..., None] * step) ** 2).sum((1, 2, 3))
    best = rest.argmin(0)
    return covers[best, np.arange(len(x))], best


def _features(cover: np.ndarray) -> np.ndarray:
    """(n, 64): coverage averaged over 2x2 pixels, as large as the handwriting."""
    half = QUADRANT // 2
    return cover.reshape(-1, half, 2, half, 2).mean((2, 4)).reshape(-1, half * half)
