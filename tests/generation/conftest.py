"""The tiny model and tokenizers that these tests share."""

from __future__ import annotations

import pytest

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from tests.factories.memorised import learn
from tests.factories.models import make_model

from ..helpers.toy_codecs import ToyCodec, toy_tokenizers


@pytest.fixture(scope="session")
def model() -> MultimodalModel:
    return make_model()


@pytest.fixture(scope="session")
def tokenizers() -> TokenizerSet:
    """Text 0..33 words; images of 4 tokens, codes 0..15; speech units 0..10."""
    image, speech = ToyCodec("discrete", 17, 4), ToyCodec("discrete", 12)
    return toy_tokenizers(34, image=image, speech=speech)


@pytest.fixture(scope="session")
def learnt() -> tuple[Generator, list[Example]]:
    """See memorised.learn; takes some seconds."""
    return learn()
