"""Decoders of several threads: those that share weights do not share states, and one decoder is no
place for the sequences of two threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.decoders import CachedDecoder, Decoder, RecomputingDecoder
from mixture_of_mamba.generation.guidance import GuidedDecoder
from mixture_of_mamba.generation.stepping import SteppingDecoder, why_not_native
from tests.factories.models import make_model, random_sequence

TOKENS, TEXT = torch.tensor([3]), torch.tensor([0])


def guided(model: Any) -> Decoder:
    return GuidedDecoder(CachedDecoder(model), CachedDecoder(model), random_sequence(2, 9), 1.5)


KINDS: dict[str, Callable[[Any], Decoder]] = {
    "cached": CachedDecoder,
    "stepping": SteppingDecoder,
    "fastest": lambda model: decoder_maker(model)(),
    "guided": guided,
    "recomputing": RecomputingDecoder,
}


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return KINDS[request.param](make_model())


def elsewhere(call: Callable[[], Any]) -> Any:
    """The result of a call in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=60)


def run(decoder: Decoder, seed: int, steps: int = 30) -> Tensor:
    logits = decoder.start([random_sequence(7, seed)])
    for _ in range(steps):
        logits = decoder.step(logits[:, :34].argmax(-1), TEXT)
    return logits


@pytest.mark.parametrize("weights", [None, "float32", "int8"])
def test_decoders_that_share_weights_do_not_share_states(weights: str | None) -> None:
    model = make_model()
    if weights is not None and why_not_native(model) is not None:
        pytest.skip(str(why_not_native(model)))
    make = decoder_maker(model, weights)
    expected = [run(make(), seed) for seed in range(4)]
    together = threading.Barrier(4)

    def one(seed: int) -> list[Tensor]:
        torch.set_num_threads(1)
        together.wait()
        return [run(make(), seed) for _ in range(10)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(4)))
    for logits, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(x, wanted) for x in logits)


def test_sequences_go_on_in_any_thread(decoder: Decoder) -> None:
    prompt = random_sequence(7, 1)
    decoder.start([prompt])
    expected = decoder.step(TOKENS, TEXT)
    elsewhere(lambda: decoder.start([prompt]))
    assert torch.equal(elsewhere(lambda: decoder.step(TOKENS, TEXT)), expected)


def test_a_thread_whose_sequences_were_replaced_is_told(decoder: Decoder) -> None:
    decoder.start([random_sequence(7, 1)])
    elsewhere(lambda: decoder.start([random_sequence(5, 2)]))
    for call in (
        lambda: decoder.step(TOKENS, TEXT),
        lambda: decoder.keep([0]),
        lambda: decoder.extend([0], [random_sequence(2, 3)]),
    ):
        with pytest.raises(RuntimeError, match="another thread has started new sequences"):
            call()
    other = elsewhere(lambda: decoder.step(TOKENS, TEXT))
    decoder.start([random_sequence(5, 2)])
    assert torch.equal(decoder.step(TOKENS, TEXT), other)


def test_calls_that_overlap_are_refused(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder.start([random_sequence(7, 1)])
    inside, go_on = threading.Event(), threading.Event()
    embedding = type(decoder.model.embedding).forward

    def waiting(self: Any, ids: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)
        return embedding(self, ids)

    monkeypatch.setattr(type(decoder.model.embedding), "forward", waiting)
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(decoder.step, TOKENS, TEXT)
        assert inside.wait(60)
        with pytest.raises(RuntimeError, match=r"is at work in another thread.*make a decoder for"):
            decoder.step(TOKENS, TEXT)
        with pytest.raises(RuntimeError, match="is at work in another thread"):
            decoder.start([random_sequence(5, 2)])
        go_on.set()
        first = step.result(timeout=60)
    decoder.start([random_sequence(7, 1)])
    assert torch.equal(decoder.step(TOKENS, TEXT), first)


def test_a_refused_call_leaves_the_decoder_usable(decoder: Decoder) -> None:
    decoder.start([random_sequence(7, 1)])
    with pytest.raises((IndexError, ValueError, RuntimeError)):
        decoder.step(torch.tensor([3, 3, 3]), torch.tensor([0, 0, 7]))
    decoder.start([random_sequence(7, 1)])
    decoder.step(TOKENS, TEXT)
