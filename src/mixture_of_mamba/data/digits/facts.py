"""What a scene shows, said in words and read back from words.

Every wording names each digit, its colour and its place exactly once, in any order, before it turns
to the next digit. So a caption is read by collecting words until a digit, a colour and a place are
together; that reads generated captions too, which follow the grammar only more or less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["COLOURS", "DIGITS", "POSITIONS", "Fact", "caption", "parse_facts"]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.15, 1.0, 0.2),
    "blue": (0.2, 0.4, 1.0),
    "yellow": (1.0, 0.95, 0.1),
    "purple": (0.8, 0.2, 1.0),
    "orange": (1.0, 0.55, 0.05),
    "white": (1.0, 1.0, 1.0),
}
"""Colour names and their red, green, blue in 0..1; the largest is 1."""
POSITIONS = ("top left", "top right", "bottom left", "bottom right")
"""Quadrants of the canvas, row by row."""

_ROWS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_SIDES = ("left", "right")
_WORD = re.compile(r"[a-z]+")

_ITEMS = (
    "{a} {colour} {digit} at the {place}",
    "{a} {colour} {digit} in the {place} corner",
    "the {digit} in {colour} at the {place}",
    "at the {place} {a} {colour} {digit}",
    "the {digit} at the {place} is {colour}",
    "in the {place} corner the {digit} is {colour}",
    "{colour} {digit} {place}",
)
_FRAMES = ("{}", "there is {}", "this picture shows {}", "you can see {}", "look: {}")
_JOINS = (" and ", ", ", ", then ", ", and ")


class Fact(NamedTuple):
    """One digit of a scene: its value 0..9, a name of COLOURS, a name of POSITIONS."""

    digit: int
    colour: str
    position: str


def caption(facts: Sequence[Fact], rng: np.random.Generator) -> str:
    """The facts in words, in the order given, in one of many wordings.

    Items, places and joints are worded by draws from `rng`; a caption keeps to one kind of item in
    two of three cases, as people do.
    """
    same = rng.random() < 2 / 3
    first = int(rng.integers(len(_ITEMS)))
    parts = []
    for fact in facts:
        item = _ITEMS[first if same else int(rng.integers(len(_ITEMS)))]
        row, side = fact.position.split()
        if rng.random() < 0.3:
            row = {"top": "upper", "bottom": "lower"}[row]
        words = {"a": "an" if fact.colour[0] in "aeiou" else "a", "colour": fact.colour}
        parts.append(item.format(digit=DIGITS[fact.digit], place=f"{row} {side}", **words))
    text = parts[0]
    for part in parts[1:]:
        text += _JOINS[int(rng.integers(len(_JOINS)))] + part
    return _FRAMES[int(rng.integers(len(_FRAMES)))].format(text)


def parse_facts(text: str) -> set[Fact]:
    """The facts that a caption states: (digit, colour, position) of every complete statement.

    A statement that names a second digit, colour or place before it is complete is dropped, so
    broken captions lose only what they break.
    """
    facts: set[Fact] = set()
    found: dict[str, str] = {}
    for word in _WORD.findall(text.lower()):
        kind = _kind(word)
        if kind is None:
            continue
        if kind in found:
            found = {}
        found[kind] = _ROWS.get(word, word)
        if len(found) == 4:
            place = f"{found['row']} {found['side']}"
            facts.add(Fact(DIGITS.index(found["digit"]), found["colour"], place))
            found = {}
    return facts


def _kind(word: str) -> str | None:
    if word in DIGITS:
        return "digit"
    if word in COLOURS:
        return "colour"
    if word in _ROWS:
        return "row"
    return "side" if word in _SIDES else None
