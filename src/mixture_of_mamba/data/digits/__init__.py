"""Spoken digit scenes: handwritten digits, coloured and placed, described in words and speech."""

from .facts import (
    COLOURS,
    DIGITS,
    POSITIONS,
    Fact,
    caption,
    parse_facts,
)

__all__ = ["COLOURS", "DIGITS", "POSITIONS", "Fact", "caption", "parse_facts"]
