"""Spoken digit scenes: handwritten digits, coloured and placed, described in words and speech."""

from mixture_of_mamba.data.scenes.facts import (
    COLOURS,
    DIGITS,
    POSITIONS,
    Fact,
    caption,
    parse_facts,
)

__all__ = ["COLOURS", "DIGITS", "POSITIONS", "Fact", "caption", "parse_facts"]
