"""Clips of moving digits: who moves where, said in words and read back from words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ...modalities.video_files import Clip
from .canvas import background
from .config import CLIP_SIZE
from .facts import COLOURS, DIGITS
from .handwriting import Handwriting

__all__ = ["PLACES", "ClipScene", "Move", "make_clips", "move_caption", "parse_moves"]

_SPLITS = {"train": 41, "validation": 43}
#: Frames a second.
RATE = 4.0
#: Fewest and most frames of a clip.
FRAMES = (4, 8)
#: Chances of one and two digits.
_HOW_MANY = (0.5, 0.5)
#: Chance that the second digit stands still.
_STILL = 0.4
_INK = 8

#: Where a digit may begin and end -> the top and the left of its 8x8 pixels.
PLACES: dict[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top right": (0, 8),
    "bottom left": (8, 0),
    "bottom right": (8, 8),
    "top": (0, 4),
    "bottom": (8, 4),
    "left": (4, 0),
    "right": (4, 8),
}

_ROWS = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
_SIDES = ("left", "right")
_MOVING = (
    "{a} {colour} {digit} moves from the {start} to the {end}",
    "the {colour} {digit} goes from the {start} to the {end}",
    "from the {start} to the {end} moves {a} {colour} {digit}",
    "the {digit} in {colour} slides from the {start} to the {end}",
    "{a} {colour} {digit} runs to the {end} from the {start}",
    "{colour} {digit} from {start} to {end}",
)
_STANDING = (
    "{a} {colour} {digit} stays at the {start}",
    "the {digit} in {colour} rests at the {start}",
    "at the {start} stays {a} {colour} {digit}",
)
_FRAMES = ("{}", "{}", "in this clip {}", "watch: {}", "you can see how {}")
_JOINS = (" and ", ", ", ", while ", ", and ")
#: Words in front of a place -> which place it is.
_ROLES = {"from": "start", "to": "end", "at": "both"}
_WORD = re.compile(r"[a-z]+")


class Move(NamedTuple):
    """One digit of a clip: its value 0..9, a name of COLOURS, where it begins and ends, names of
    PLACES; equal for one that stands still."""

    digit: int
    colour: str
    start: str
    end: str


@dataclass(frozen=True)
class ClipScene:
    """One clip.

    Attributes:
        moves: 1-2 digits in the order in which the caption names them.
        caption: the moves in words.
        clip: 4-8 frames of 16x16 pixels, 4 a second.
    """

    moves: tuple[Move, ...]
    caption: str
    clip: Clip


def make_clips(
    count: int,
    share: float,
    handwriting: Handwriting,
    split: str,
    seed: int,
    report: Callable[[str], None],
) -> dict[int, ClipScene]:
    """Clips of a share of `count` scenes, by the scenes' numbers; what becomes of scene i does not
    depend on how many there are.

    Args:
        handwriting: the split's own handwritten samples.
        split: "train" or "validation".
        report: called with a line of progress, often.
    """
    made = {}
    for i in range(count if share else 0):
        report(f"drew the clips of {i:,} of {count:,} scenes")
        rng = np.random.default_rng([seed, _SPLITS[split], i])
        if rng.random() < share:
            made[i] = _clip(handwriting, rng)
    return made


def _clip(handwriting: Handwriting, rng: np.random.Generator) -> ClipScene:
    """One clip, of digits that never touch."""
    count = int(rng.choice(2, p=_HOW_MANY)) + 1
    frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    moves = _moves(count, frames, rng)
    inks = [handwriting.draw(move.digit, rng) for move in moves]
    return ClipScene(moves, move_caption(moves, rng), _draw(moves, inks, frames, rng))


def _moves(count: int, frames: int, rng: np.random.Generator) -> tuple[Move, ...]:
    colours, places = list(COLOURS), list(PLACES)
    while True:
        moves = []
        for number in range(count):
            start, end = (places[i] for i in rng.permutation(len(places))[:2])
            if number and rng.random() < _STILL:
                end = start
            colour = colours[rng.integers(len(colours))]
            moves.append(Move(int(rng.integers(10)), colour, start, end))
        paths = [_path(move, frames) for move in moves]
        ways = [int(np.abs(path[-1] - path[0]).max()) for path in paths]
        if any(0 < way < _INK for way in ways):  # too short to be seen
            continue
        if all(np.abs(a - b).max(1).min() >= _INK for a, b in combinations(paths, 2)):
            return tuple(moves)


def _path(move: Move, frames: int) -> np.ndarray:
    """(frames, 2): top and left in whole pixels, along a straight line at a steady pace."""
    start, end = np.asarray(PLACES[move.start]), np.asarray(PLACES[move.end])
    done = np.arange(frames)[:, None] / (frames - 1)
    return np.floor(start + (end - start) * done + 0.5).astype(int)


def _draw(
    moves: Sequence[Move], inks: Sequence[np.ndarray], frames: int, rng: np.random.Generator
) -> Clip:
    ground = background(rng, CLIP_SIZE)
    canvas = np.repeat(ground[None], frames, 0)
    for move, ink in zip(moves, inks, strict=True):
        colour = np.asarray(COLOURS[move.colour], np.float32)
        for image, (top, left) in zip(canvas, _path(move, frames), strict=True):
            view = image[top : top + _INK, left : left + _INK]
            view += ink[..., None] * (colour - view)
    return Clip((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8), RATE)


def move_caption(moves: Sequence[Move], rng: np.random.Generator) -> str:
    """The moves in words, in the order given, in one of many wordings."""
    first = int(rng.integers(len(_MOVING)))
    same = rng.random() < 2 / 3
    parts = []
    for move in moves:
        wordings = _STANDING if move.start == move.end else _MOVING
        chosen = first if same else int(rng.integers(len(_MOVING)))
        words = {"a": "an" if move.colour[0] in "aeiou" else "a", "colour": move.colour}
        places = {"start": move.start, "end": move.end}
        if rng.random() < 0.3:
            for role, place in places.items():
                places[role] = place.replace("top ", "upper ").replace("bottom ", "lower ")
        text = wordings[chosen % len(wordings)]
        parts.append(text.format(digit=DIGITS[move.digit], **words, **places))
    text = parts[0]
    for part in parts[1:]:
        text += _JOINS[int(rng.integers(len(_JOINS)))] + part
    return _FRAMES[int(rng.integers(len(_FRAMES)))].format(text)


def parse_moves(text: str) -> set[Move]:
    """The moves that a caption states: (digit, colour, start, end) of every complete statement.

    A statement that names a second digit, colour or place before it is complete is dropped, so
    broken captions lose only what they break.
    """
    moves: set[Move] = set()
    found: dict[str, str] = {}
    for kind, word in _said(_WORD.findall(text.lower())):
        kinds = ("start", "end") if kind == "both" else (kind,)
        if any(k in found for k in kinds):
            found = {}
        found |= dict.fromkeys(kinds, word)
        if len(found) == 4:
            digit = DIGITS.index(found["digit"])
            moves.add(Move(digit, found["colour"], found["start"], found["end"]))
            found = {}
    return moves


def _said(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """("digit" or "colour", word), and ("start", "end" or "both", place), in their order."""
    role, place = "", ""
    for word in [*words, ""]:
        if role and (word in _ROWS or word in _SIDES):
            place = f"{place} {_ROWS.get(word, word)}".strip()
            continue
        if place in PLACES:
            yield role, place
        if place:
            role, place = "", ""
        if word in _ROLES:
            role = _ROLES[word]
        elif word in DIGITS:
            yield "digit", word
        elif word in COLOURS:
            yield "colour", word
