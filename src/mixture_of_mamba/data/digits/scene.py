"""Scenes of one split: facts, caption and picture, each from its own seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .canvas import draw
from .facts import COLOURS, POSITIONS, Fact, caption
from .handwriting import Handwriting

__all__ = ["Scene", "make_scenes"]

_SPLITS = {"train": 2, "validation": 3}
_HOW_MANY = (0.3, 0.4, 0.3)
"""Chances of one, two and three digits."""


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        facts: 1-3 digits in the order in which the caption names them.
        caption: the facts in words.
        image: (32, 32, 3) uint8.
        order: a permutation of 0..2, the order of caption, picture and speech in the document.
    """

    facts: tuple[Fact, ...]
    caption: str
    image: np.ndarray
    order: tuple[int, ...]


def make_scenes(
    count: int,
    handwriting: Handwriting,
    split: str,
    seed: int,
    report: Callable[[str], None] | None = None,
) -> list[Scene]:
    """`count` scenes; scene i does not depend on how many there are.

    Args:
        handwriting: the split's own handwritten samples.
        split: "train" or "validation".
        report: called with a line of progress, often.
    """
    scenes = []
    for i in range(count):
        if report is not None:
            report(f"drew {i:,} of {count:,} scenes")
        scenes.append(_scene(handwriting, [seed, _SPLITS[split], i]))
    return scenes


def _scene(handwriting: Handwriting, seed: list[int]) -> Scene:
    rng = np.random.default_rng(seed)
    count = int(rng.choice(3, p=_HOW_MANY)) + 1
    colours = list(COLOURS)
    facts = tuple(
        Fact(int(rng.integers(10)), colours[rng.integers(len(colours))], POSITIONS[place])
        for place in rng.permutation(4)[:count]
    )
    inks = [handwriting.draw(fact.digit, rng) for fact in facts]
    image = draw(facts, inks, rng)
    order = tuple(int(i) for i in rng.permutation(3))
    return Scene(facts, caption(facts, rng), image, order)
