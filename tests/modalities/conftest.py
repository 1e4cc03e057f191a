"""Fixtures of the modalities' room: the tiny bundles."""

from tests.helpers.tiny_data import bundle, spoken

__all__ = ["bundle", "spoken"]
