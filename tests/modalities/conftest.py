"""Fixtures of the modalities' room: the tiny bundles."""

from tests.factories.data import bundle, spoken

__all__ = ["bundle", "spoken"]
