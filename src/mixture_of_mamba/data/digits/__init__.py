"""Spoken digit scenes: handwritten digits, coloured and placed, described in words and speech."""
