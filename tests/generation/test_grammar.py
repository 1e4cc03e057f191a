"""What may come next inside an item: whole cycles, and nothing of what cannot be made."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.generation.grammar import Cursor, Grammar
from tests.helpers.toy_codecs import ToyCodec, toy_tokenizers

WORDS = 6


def _codec(**attributes: object) -> ToyCodec:
    codec = ToyCodec("discrete", 8)
    for name, value in attributes.items():
        setattr(codec, name, value)
    return codec


def test_a_cycle_names_the_ids_of_each_place() -> None:
    tokenizers = toy_tokenizers(WORDS, audio=_codec(cycle=((0, 3), (3, 7))))
    low = tokenizers.sizes[0]
    grammar = Grammar(tokenizers, ((0, low), (low, low + 8)))

    def allowed(length: int) -> list[int]:
        mask = grammar.mask(Cursor(1, length))
        assert not mask[:low].any()
        return mask[low:].nonzero().flatten().tolist()

    assert allowed(0) == [0, 1, 2]  # the end token, 7, never begins an item
    assert allowed(1) == [3, 4, 5, 6]
    assert allowed(2) == [0, 1, 2, 7]
    assert allowed(5) == [3, 4, 5, 6]


def test_a_cycle_in_an_item_of_fixed_length() -> None:
    codec = _codec(cycle=((0, 3), (3, 7)), fixed_length=4)
    tokenizers = toy_tokenizers(WORDS, audio=codec)
    low = tokenizers.sizes[0]
    grammar = Grammar(tokenizers, ((0, low), (low, low + 8)))
    masks = [grammar.mask(Cursor(1, n))[low:].nonzero().flatten().tolist() for n in range(5)]
    assert masks == [[0, 1, 2], [3, 4, 5, 6], [0, 1, 2], [3, 4, 5, 6], [7]]


def _generator(**attributes: object) -> Generator:
    tokenizers = toy_tokenizers(WORDS, audio=_codec(**attributes))
    torch.manual_seed(0)
    model = MultimodalModel(
        ModelConfig(
            modalities=tuple(Modality(*m) for m in tokenizers.modalities),
            d_model=16,
            n_layers=1,
            d_state=4,
        )
    )
    return Generator(model.eval(), tokenizers)


@pytest.mark.parametrize("length", ["max_length", "fixed_length"])
def test_a_length_that_ends_within_a_cycle_is_refused(length: str) -> None:
    with pytest.raises(ValueError, match=r"'toy' of 'audio' .* up to 5 tokens.* multiple of 2"):
        toy_tokenizers(WORDS, audio=_codec(cycle=((0, 3), (3, 7)), **{length: 5}))


def test_generated_items_are_whole_cycles() -> None:
    generator = _generator(cycle=((0, 3), (3, 7)))
    prompts = [[] for _ in range(12)]
    items = generator.to("audio", prompts, max_tokens=9, temperature=3.0, seed=1)
    assert any(len(item) == 8 for item in items)  # cut in the middle of a cycle
    for item in items:
        assert len(item) and len(item) % 2 == 0
        assert (item[::2] < 3).all() and (item[1::2] >= 3).all() and (item < 7).all()


def test_what_cannot_be_decoded_is_never_generated() -> None:
    generator = _generator(cannot_decode="this network has no decoder; give another codec")
    with pytest.raises(ValueError, match="no audio can be generated: this network has no decoder"):
        generator.to("audio", [[]])
    begin = generator.tokenizers.begin["audio"]
    for seed in range(8):
        events = generator.events([[]], seed=seed, temperature=5.0, max_tokens=30)
        assert begin not in [e.token for e in events if e.modality == "text"]
