"""The tiny model and layout that these tests share."""

from __future__ import annotations

import pytest

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.generation.grammar import Layout

from .memory import learn
from .tiny import make_model


@pytest.fixture(scope="session")
def model() -> MultimodalModel:
    return make_model()


@pytest.fixture(scope="session")
def layout() -> Layout:
    """Text 0..33 words; images of 4 tokens, codes 0..15; speech units 0..10."""
    return Layout(
        names=("text", "image", "speech"),
        kinds=("discrete",) * 3,
        sizes=(40, 17, 12),
        begin={"image": 36, "speech": 37},
        end={"image": 16, "speech": 11},
        fixed_length={"image": 4},
        document=(34, 35),
    )


@pytest.fixture(scope="session")
def learnt() -> tuple[Generator, list[Example]]:
    """See memory.learn; takes some seconds."""
    return learn()
