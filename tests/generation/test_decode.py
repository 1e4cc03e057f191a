"""The decoding loop: grammar, seeds, batches and both decoders."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from mixture_of_mamba import Modality, MultimodalModel
from mixture_of_mamba.generation import decoders
from mixture_of_mamba.generation.choice import decoder_maker
from mixture_of_mamba.generation.decoders import CachedDecoder, RecomputingDecoder
from mixture_of_mamba.generation.grammar import Cursor, Grammar
from mixture_of_mamba.generation.guidance import GuidedDecoder
from mixture_of_mamba.generation.loop import Decoding, Event
from mixture_of_mamba.generation.sampling import Sampling
from mixture_of_mamba.generation.sequence import TokenSequence
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.models import ModelState
from tests.factories.models import IMAGE, SPEECH, TEXT, make_model, random_sequence

from ..helpers.toy_codecs import ToyCodec, toy_tokenizers

DOCUMENT_END, OPEN_IMAGE, OPEN_SPEECH = 35, 36, 37
IMAGE_END, SPEECH_END = 16, 11


def run(model: MultimodalModel, tokenizers: TokenizerSet, prompts, place=TEXT, **kwargs):  # type: ignore[no-untyped-def]
    """Events of each prompt."""
    grammar = kwargs.pop("grammar", None) or Grammar(
        tokenizers, model.config.vocabulary_ranges, may_open=tokenizers.begin
    )
    options = kwargs.pop("options", Sampling())
    seeds = kwargs.pop("seeds", range(len(prompts)))
    rows: list[list[Event]] = [[] for _ in prompts]
    for event in Decoding(
        kwargs.pop("decoder", None) or decoder_maker(model)(),
        prompts,
        [Cursor(place)] * len(prompts),
        grammar,
        options,
        seeds=list(seeds),
        max_tokens=kwargs.pop("max_tokens", 60),
        **kwargs,
    ):
        rows[event.row].append(event)
    return rows


def pairs(events: list[Event]) -> list[tuple[str, int]]:
    return [(e.modality, e.token) for e in events]


def test_free_generation_obeys_the_grammar(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    prompts = [random_sequence(n, seed=n) for n in (3, 8, 5, 1, 2, 9)]
    rows = run(model, tokenizers, prompts, options=Sampling(temperature=1.5), max_tokens=120)
    opened = set()
    for events in rows:
        where, held = "text", 0
        for event in events:
            assert event.modality == where
            if where == "text":
                assert event.token not in (34, 38, 39) or event.token > 37
                if event.token in (OPEN_IMAGE, OPEN_SPEECH):
                    where, held = ("image", "speech")[event.token - OPEN_IMAGE], 0
                    opened.add(where)
                assert (event.token == DOCUMENT_END) <= event.last
            elif event.token == tokenizers.end[where]:
                assert held == 4 if where == "image" else held > 0
                where = "text"
            else:
                held += 1
                assert where != "image" or held <= 4
        assert [e.last for e in events] == [False] * (len(events) - 1) + [True]
        assert events[-1].token == DOCUMENT_END or len(events) == 120
    assert opened == {"image", "speech"}


def test_a_sample_does_not_depend_on_its_batch(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    prompts = [random_sequence(n, seed=n) for n in (3, 11, 6, 1)]
    together = run(model, tokenizers, prompts, seeds=[5, 6, 7, 8])
    for i, prompt in enumerate(prompts):
        (alone,) = run(model, tokenizers, [prompt], seeds=[5 + i])
        assert pairs(alone) == pairs(together[i])
    assert len({tuple(pairs(e)) for e in together}) == 4
    other = run(model, tokenizers, prompts[:1], seeds=[99])
    assert pairs(other[0]) != pairs(together[0])


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_cached_decoding_equals_recomputing(
    model: MultimodalModel, tokenizers: TokenizerSet, penalty: float
) -> None:
    prompts = [random_sequence(n, seed=n) for n in (3, 11, 6)]
    options = Sampling(temperature=0.8, repetition_penalty=penalty, top_p=0.95)
    cached = run(model, tokenizers, prompts, options=options, decoder=CachedDecoder(model))
    again = run(model, tokenizers, prompts, options=options, decoder=RecomputingDecoder(model))
    assert [pairs(e) for e in cached] == [pairs(e) for e in again]
    assert len(prompts[0]) == 3  # the caller's prompts stay as they were


def test_attention_models_generate_by_recomputing(tokenizers: TokenizerSet) -> None:
    model = make_model(mixer="attention", head_dim=16)
    prompts = [random_sequence(n, seed=n) for n in (3, 7)]
    together = run(model, tokenizers, prompts, max_tokens=20)
    (alone,) = run(model, tokenizers, prompts[1:], seeds=[1], max_tokens=20)
    assert pairs(alone) == pairs(together[1])


def test_one_image_is_exactly_its_fixed_length(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges, only=True)
    prompts = [TokenSequence([TEXT] * 3, [34, 5, OPEN_IMAGE]), random_sequence(4, 0)]
    prompts[1].append(TEXT, OPEN_IMAGE)
    for events in run(model, tokenizers, prompts, IMAGE, grammar=grammar):
        assert [e.modality for e in events] == ["image"] * 4
        assert all(e.token < IMAGE_END for e in events)
        assert events[-1].last


def test_one_utterance_ends_with_its_end_token(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges, only=True)
    prompt, ended = TokenSequence([TEXT] * 2, [34, OPEN_SPEECH]), 0
    for events in run(model, tokenizers, [prompt] * 20, SPEECH, grammar=grammar, max_tokens=200):
        assert {e.modality for e in events} == {"speech"}
        assert events[0].token != SPEECH_END
        assert [e.token == SPEECH_END for e in events[:-1]] == [False] * (len(events) - 1)
        assert events[-1].token == SPEECH_END or len(events) == 200
        ended += events[-1].token == SPEECH_END
    assert ended > 5


def test_text_alone_has_a_word_and_ends_where_something_else_begins(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    grammar = Grammar(
        tokenizers, model.config.vocabulary_ranges, stop=tokenizers.begin.values(), only=True
    )
    prompts = [TokenSequence([TEXT], [34])] * 30
    endings = set()
    for events in run(model, tokenizers, prompts, grammar=grammar, max_tokens=300):
        *words, last = (e.token for e in events)
        assert words
        assert not set(words) & tokenizers.special
        endings.add(last)
    assert endings == {DOCUMENT_END, OPEN_IMAGE, OPEN_SPEECH}


def test_stop_tokens_end_a_sequence(model: MultimodalModel, tokenizers: TokenizerSet) -> None:
    greedy = Sampling(temperature=0)
    prompt = random_sequence(6, seed=1)
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges)
    (events,) = run(model, tokenizers, [prompt], options=greedy, grammar=grammar)
    word = events[2].token
    first = [e.token for e in events].index(word)
    stopping = Grammar(tokenizers, model.config.vocabulary_ranges, stop={word})
    (cut,) = run(model, tokenizers, [prompt], options=greedy, grammar=stopping)
    assert pairs(cut) == pairs(events[: first + 1])


def test_greedy_decoding_takes_the_most_likely_allowed_token(
    model: MultimodalModel, tokenizers: TokenizerSet
) -> None:
    prompt = random_sequence(6, seed=1)
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges)
    (events,) = run(
        model, tokenizers, [prompt], options=Sampling(temperature=0), grammar=grammar, max_tokens=12
    )
    tokens, modalities = list(prompt.tokens), list(prompt.modalities)
    for event in events:
        logits, _ = model.advance(torch.tensor([tokens]), torch.tensor([modalities]))
        allowed = [i for i in range(40) if i not in (34, OPEN_IMAGE, OPEN_SPEECH)]
        assert event.token == max(allowed, key=lambda i: float(logits[0, i]))
        tokens.append(event.token)
        modalities.append(TEXT)


def test_guidance_one_and_zero_and_more(model: MultimodalModel, tokenizers: TokenizerSet) -> None:
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges, only=True)
    bare = TokenSequence([TEXT] * 2, [34, OPEN_IMAGE])
    prompts = [random_sequence(n, seed=n) for n in (5, 9)]
    for prompt in prompts:
        prompt.append(TEXT, OPEN_IMAGE)

    def guided(scale: float, given: list[TokenSequence]) -> list[list[tuple[str, int]]]:
        decoder = GuidedDecoder(CachedDecoder(model), CachedDecoder(model), bare, scale)
        return [
            pairs(e) for e in run(model, tokenizers, given, IMAGE, grammar=grammar, decoder=decoder)
        ]

    plain = [pairs(e) for e in run(model, tokenizers, prompts, IMAGE, grammar=grammar)]
    without = [pairs(e) for e in run(model, tokenizers, [bare] * 2, IMAGE, grammar=grammar)]
    assert guided(1.0, prompts) == plain
    assert guided(0.0, prompts) == without
    assert guided(9.0, prompts) not in (plain, without)
    with pytest.raises(ValueError, match="guidance is -1"):
        guided(-1.0, prompts)


def continuous() -> tuple[MultimodalModel, TokenizerSet]:
    """Text and images of 4 vectors of width 3."""
    model = make_model(Modality("text", "discrete", 40), Modality("image", "continuous", 3))
    return model, toy_tokenizers(34, image=ToyCodec("continuous", 3, 4))


def vectors(
    model: MultimodalModel, state: ModelState, name: str, count: int, seeds: Sequence[int]
) -> torch.Tensor:
    """A sampler whose result names the state and the seed that it was given."""
    mark = torch.stack([state.position.float(), torch.tensor(seeds).float(), state[0].ssm[:, 0, 0]])
    return mark.T[:, None].expand(-1, count, -1)


def test_continuous_segments_come_from_the_state_at_their_begin_token() -> None:
    model, tokenizers = continuous()
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges, only=True)
    prompts = [random_sequence(n, seed=n, sizes=(34,)) for n in (3, 8)]
    for prompt in prompts:
        prompt.append(TEXT, OPEN_IMAGE)
    rows = run(model, tokenizers, prompts, IMAGE, grammar=grammar, sampler=vectors)
    for prompt, (event,) in zip(prompts, rows, strict=True):
        _, cache = model.advance(torch.tensor([prompt.tokens]), torch.tensor([prompt.modalities]))
        assert event.last
        assert event.values.shape == (4, 3)
        assert event.values[0, 0] == len(prompt)
        torch.testing.assert_close(event.values[0, 2], cache[0].ssm[0, 0, 0])


def test_text_goes_on_behind_a_continuous_segment() -> None:
    model, tokenizers = continuous()
    prompts = [random_sequence(n, seed=n, sizes=(34,)) for n in (3, 8, 5)]
    for prompt in prompts:
        prompt.append(TEXT, OPEN_IMAGE)
    grammar = Grammar(tokenizers, model.config.vocabulary_ranges)
    greedy = {"grammar": grammar, "options": Sampling(temperature=0)}
    rows = run(model, tokenizers, prompts, IMAGE, sampler=vectors, max_tokens=12, **greedy)
    for prompt, (image, *words) in zip(prompts, rows, strict=True):
        prompt.append_values(IMAGE, "image", image.values)
        prompt.append(TEXT, tokenizers.end["image"])
        decoder = RecomputingDecoder(model)
        (wanted,) = run(model, tokenizers, [prompt], max_tokens=8, decoder=decoder, **greedy)
        assert pairs(words) == pairs(wanted)
    assert len({tuple(pairs(events)) for events in rows}) > 1


def test_sequences_that_open_continuous_segments_by_themselves() -> None:
    model, tokenizers = continuous()
    with torch.no_grad():  # make images likely
        model.head.weight[OPEN_IMAGE] *= 2
    prompts = [random_sequence(n, seed=n, sizes=(34,)) for n in (3, 8, 5, 2)]
    together = run(model, tokenizers, prompts, sampler=vectors, max_tokens=40)
    assert any(e.values is not None for events in together for e in events)
    for i, (prompt, events) in enumerate(zip(prompts, together, strict=True)):
        (alone,) = run(model, tokenizers, [prompt], sampler=vectors, seeds=[i], max_tokens=40)
        assert pairs(alone) == pairs(events)
    with pytest.raises(ValueError, match="transformer baselines have none"):
        run(model, tokenizers, prompts, sampler=vectors, decoder=RecomputingDecoder(model))


def test_a_continuous_segment_without_a_sampler_is_an_error() -> None:
    model, tokenizers = continuous()
    prompt = TokenSequence([TEXT] * 2, [34, OPEN_IMAGE])
    with pytest.raises(ValueError, match="needs a sampler"):
        run(model, tokenizers, [prompt], IMAGE)


def test_wrong_requests_are_refused(model: MultimodalModel, tokenizers: TokenizerSet) -> None:
    prompt = random_sequence(3, seed=0)
    with pytest.raises(ValueError, match="max_tokens is 0"):
        run(model, tokenizers, [prompt], max_tokens=0)
    with pytest.raises(ValueError, match="1 prompts, 1 cursors and 2 seeds"):
        run(model, tokenizers, [prompt], seeds=[1, 2])
    with pytest.raises(ValueError, match="no modality 'smell'; it has text, image, speech"):
        tokenizers.index("smell")
    with pytest.raises(RuntimeError, match="call start first"):
        CachedDecoder(model).cache([0])
    decoder = CachedDecoder(model)
    decoder.start([prompt, prompt])
    with pytest.raises(ValueError, match=r"have \[3, 2\] tokens; extend by equally many"):
        decoder.extend([0, 1], [prompt, random_sequence(2, seed=1)])


def test_long_prompts_are_read_in_pieces(
    model: MultimodalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [random_sequence(n, seed=n) for n in (30, 8, 17)]
    whole = CachedDecoder(model)
    wanted = whole.start(prompts)
    monkeypatch.setattr(decoders, "TOKENS_AT_ONCE", 15)
    pieces = CachedDecoder(model)
    torch.testing.assert_close(pieces.start(prompts), wanted, rtol=1e-5, atol=1e-5)
    assert pieces.cache([0, 1, 2]).position.tolist() == [30, 8, 17]
