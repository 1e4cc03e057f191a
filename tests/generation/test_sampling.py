"""Samplers against their definitions, and each sequence's own random numbers."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba.generation.sampling import (
    Sampling,
    UniformStream,
    apply_repetition_penalty,
    filter_logits,
    sample,
)

LOGITS = torch.tensor([[0.5, 3.0, -1.0, 2.0, 0.0], [1.0, 1.0, 4.0, -2.0, 3.9]])


def kept(**options: float) -> list[list[int]]:
    """Tokens that a filter leaves."""
    out = filter_logits(LOGITS, Sampling(**options))  # type: ignore[arg-type]
    return [row.isfinite().nonzero().flatten().tolist() for row in out]


def test_top_k_keeps_the_k_largest() -> None:
    assert kept(top_k=2) == [[1, 3], [2, 4]]
    assert kept(top_k=99) == [[0, 1, 2, 3, 4]] * 2


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    for p in (0.05, 0.5, 0.7, 0.9, 0.99):
        for row, tokens in zip(LOGITS.softmax(-1), kept(top_p=p), strict=True):
            mass = row[tokens].sum()
            assert mass >= p - 1e-6
            assert mass - row[tokens].min() < p  # one fewer would not do
            assert len(tokens) == 5 or row[tokens].min() > max(
                row[i] for i in range(5) if i not in tokens
            )


def test_min_p_is_relative_to_the_most_likely() -> None:
    probability = LOGITS.softmax(-1)
    wanted = [[i for i in range(5) if row[i] >= 0.2 * row.max()] for row in probability]
    assert kept(min_p=0.2) == wanted


def test_temperature_scales_and_zero_is_greedy() -> None:
    assert torch.equal(filter_logits(LOGITS, Sampling(temperature=0.5)), LOGITS / 0.5)
    assert sample(LOGITS, Sampling(temperature=0), None).tolist() == [1, 2]


def test_repetition_penalty_divides_or_multiplies() -> None:
    seen = torch.tensor([[False, True, True, False, False], [False] * 5])
    out = apply_repetition_penalty(LOGITS, seen, 2.0)
    assert out[0].tolist() == [0.5, 1.5, -2.0, 2.0, 0.0]
    assert torch.equal(out[1], LOGITS[1])


def test_frequencies_follow_the_probabilities() -> None:
    n = 20_000
    draws = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = sample(LOGITS[:1].expand(n, -1), Sampling(), draws)
    wanted = LOGITS[0].softmax(-1)
    error = (wanted * (1 - wanted) / n).sqrt()
    assert ((tokens.bincount(minlength=5) / n - wanted).abs() < 4 * error).all()


def test_forbidden_tokens_are_never_picked_even_at_the_ends_of_the_interval() -> None:
    masked = LOGITS.masked_fill(torch.tensor([True, False, True, False, True]), -torch.inf)
    for uniform in (0.0, 0.5, 1 - 2**-53):
        picked = sample(masked, Sampling(), torch.full((2,), uniform, dtype=torch.float64))
        assert all(token in (1, 3) for token in picked.tolist())


def test_draws_depend_on_the_seed_alone() -> None:
    batch, alone = UniformStream([3, 7, 9]), UniformStream([7])
    for step in range(300):  # past the block that is drawn ahead
        numbers, number = batch.next(), alone.next()
        assert numbers[-2 if step > 100 else 1] == number[0]
        if step == 100:
            batch.keep([1, 2])
    assert len(set(batch.next().tolist())) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_k", 0),
        ("top_p", 0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
    ],
)
def test_options_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is"):
        Sampling(**{field: value})  # type: ignore[arg-type]
