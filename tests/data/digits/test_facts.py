"""Captions say the facts, all of them, and can be read back."""

from __future__ import annotations

import numpy as np
import pytest

from mixture_of_mamba.data.digits.facts import COLOURS, POSITIONS, Fact, caption, parse_facts


def random_facts(rng: np.random.Generator) -> list[Fact]:
    colours = list(COLOURS)
    places = rng.permutation(4)[: rng.integers(1, 4)]
    return [
        Fact(int(rng.integers(10)), colours[rng.integers(len(colours))], POSITIONS[p])
        for p in places
    ]


def test_every_wording_can_be_read_back() -> None:
    rng = np.random.default_rng(0)
    captions = set()
    for _ in range(3000):
        facts = random_facts(rng)
        text = caption(facts, rng)
        captions.add(text)
        assert parse_facts(text) == set(facts), text
    assert len(captions) > 2500


def test_wording_varies_and_articles_agree() -> None:
    rng = np.random.default_rng(1)
    fact = [Fact(3, "orange", "top left")]
    texts = {caption(fact, rng) for _ in range(300)}
    assert len(texts) > 30
    assert any("an orange three" in text for text in texts)
    assert not any("a orange" in text for text in texts)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", set()),
        ("a red three", set()),
        ("a red blue three at the top left", {Fact(3, "blue", "top left")}),
        (
            "a red three at the and a white one at the lower right",
            {Fact(1, "white", "bottom right")},
        ),
        ("A RED three, Upper LEFT.", {Fact(3, "red", "top left")}),
    ],
)
def test_broken_captions_lose_only_what_they_break(text: str, facts: set[Fact]) -> None:
    assert parse_facts(text) == facts
