"""generate() of the installed transformers against whole passes and searches written out here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel

from .hf_models import IMAGE, TEXT, greedy, logits_alone, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import MixtureOfMambaForCausalLM, from_multimodal  # noqa: E402
from mixture_of_mamba.interop.hf.keywords import CACHE_NAMES  # noqa: E402

GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def mine() -> MultimodalModel:
    return ours()


@pytest.fixture
def model(mine) -> MixtureOfMambaForCausalLM:
    return from_multimodal(mine)


@pytest.fixture
def ids() -> Tensor:
    """Rows that end in either modality."""
    ids = torch.randint(0, TEXT + IMAGE, (2, 7))
    ids[:, -1] = torch.tensor([3, TEXT + 3])
    return ids


def returned(model, ids: Tensor, **arguments):  # type: ignore[no-untyped-def]
    """Sequences and state that `generate` gives back, under the installed version's name."""
    output = model.generate(ids, return_dict_in_generate=True, **GREEDY | arguments)
    return output.sequences, next(output[name] for name in CACHE_NAMES if name in output)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "dynamic"},
        {"prefill_chunk_size": 1},
        {"prefill_chunk_size": 3},
        {"prefill_chunk_size": 100},
    ],
)
def test_greedy_tokens_are_those_of_whole_passes(mine, model, ids, arguments) -> None:
    found = model.generate(ids, **GREEDY, **arguments)
    assert torch.equal(found[:, :7], ids)
    for row in range(2):
        assert torch.equal(found[row, 7:], greedy(mine, ids[row], 6))


def beam_search(mine: MultimodalModel, ids: Tensor, beams: int, steps: int) -> list[Tensor]:
    """All beams of one sequence after `steps` tokens, best first."""
    running = [(0.0, ids)]
    with torch.no_grad():
        for _ in range(steps):
            grown = []
            for score, tokens in running:
                each = logits_alone(mine, tokens)[-1].double().log_softmax(-1)
                grown += [
                    (score + float(v), torch.cat([tokens, torch.tensor([i])]))
                    for i, v in enumerate(each)
                ]
            running = sorted(grown, key=lambda pair: -pair[0])[:beams]
    return [tokens for _, tokens in running]


@pytest.mark.parametrize("arguments", [{}, {"use_cache": False}, {"prefill_chunk_size": 2}])
def test_beams_are_those_of_a_search_over_whole_passes(mine, model, ids, arguments) -> None:
    found = model.generate(
        ids,
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=4,
        do_sample=False,
        **arguments,
    )
    for row in range(2):
        expected = beam_search(mine, ids[row], 4, 4)
        assert torch.equal(found[4 * row : 4 * row + 4], torch.stack(expected))


def test_sampling_draws_from_the_right_distribution(mine, model, ids) -> None:
    """The scores of each step are the logits of a whole pass over what was drawn before it."""
    output = model.generate(
        ids,
        max_new_tokens=5,
        do_sample=True,
        num_return_sequences=2,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert not torch.equal(output.sequences[0], output.sequences[1])
    for row, sequence in enumerate(output.sequences):
        whole = logits_alone(mine, sequence)
        for step, logits in enumerate(output.logits):
            torch.testing.assert_close(logits[row], whole[6 + step], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_penalty_on_repetition(mine, model, ids, use_cache: bool) -> None:
    """arXiv 1909.05858, section 4.1: logits of tokens that were there divided, or multiplied."""
    found = model.generate(ids, repetition_penalty=1.7, use_cache=use_cache, **GREEDY)
    for row in range(2):
        tokens = ids[row]
        for _ in range(6):
            logits = logits_alone(mine, tokens)[-1].detach()
            there = tokens.unique()
            old = logits[there]
            logits[there] = torch.where(old < 0, old * 1.7, old / 1.7)
            tokens = torch.cat([tokens, logits.argmax()[None]])
        assert torch.equal(found[row], tokens)
    assert not torch.equal(found, model.generate(ids, **GREEDY))  # or it was not tested


def guided(mine: MultimodalModel, ids: Tensor, other: Tensor, scale: float, steps: int) -> Tensor:
    """(steps,) greedy tokens of classifier-free guidance, arXiv 2306.17806 eq. 7, in log space."""
    drawn = ids.new_zeros(0)
    with torch.no_grad():
        for _ in range(steps):
            one = logits_alone(mine, torch.cat([ids, drawn]))[-1].log_softmax(-1)
            two = logits_alone(mine, torch.cat([other, drawn]))[-1].log_softmax(-1)
            drawn = torch.cat([drawn, (two + scale * (one - two)).argmax()[None]])
    return drawn


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("negative", ["none", "plain", "padded"])
def test_guidance_with_and_without_the_cache(mine, model, ids, use_cache, negative) -> None:
    other, arguments = [row[-1:] for row in ids], {}
    if negative != "none":
        prompt = torch.randint(0, TEXT + IMAGE, (2, 4))
        mask = torch.ones_like(prompt)
        if negative == "padded":
            mask[0, :2] = 0
        other = [row[keep > 0] for row, keep in zip(prompt, mask, strict=True)]
        arguments = {"negative_prompt_ids": prompt, "negative_prompt_attention_mask": mask}
    found = model.generate(ids, guidance_scale=1.5, use_cache=use_cache, **GREEDY, **arguments)
    for row in range(2):
        assert torch.equal(found[row, 7:], guided(mine, ids[row], other[row], 1.5, 6))
    assert not torch.equal(found, model.generate(ids, **GREEDY))  # or guidance was not tested


@pytest.mark.parametrize("use_cache", [True, False])
def test_guidance_of_several_sequences_per_prompt(model, ids, use_cache) -> None:
    negative = torch.randint(0, TEXT + IMAGE, (2, 3))
    torch.manual_seed(0)
    output = model.generate(
        ids,
        negative_prompt_ids=negative,
        guidance_scale=1.5,
        do_sample=True,
        num_return_sequences=2,
        max_new_tokens=4,
        use_cache=use_cache,
        output_scores=True,
        return_dict_in_generate=True,
    )
    for row, sequence in enumerate(output.sequences):
        drawn = sequence[7:]
        one = model(sequence[None]).logits[0].log_softmax(-1)[6:-1]
        two = model(torch.cat([negative[row // 2], drawn])[None]).logits[0].log_softmax(-1)[2:-1]
        expected = two + 1.5 * (one - two)
        scores = torch.stack([s[row] for s in output.scores])
        kept = scores > -torch.inf  # top_k
        torch.testing.assert_close(scores[kept], expected[kept], atol=1e-4, rtol=1e-4)


def test_guidance_that_cannot_come_right_is_refused(model, ids) -> None:
    with pytest.raises(ValueError, match="does not follow the beams"):
        model.generate(ids, guidance_scale=1.5, num_beams=2, max_new_tokens=2)
    embeds = model.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="needs negative_prompt_ids"):
        model.generate(
            inputs_embeds=embeds,
            modality_ids=(ids >= TEXT).long(),
            guidance_scale=1.5,
            max_new_tokens=2,
        )


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_a_returned_state_goes_into_the_next_call(model, ids, name: str) -> None:
    whole = model.generate(ids, max_new_tokens=12, do_sample=False)
    sequences, state = returned(model, ids)
    again = copy.deepcopy(state)
    assert torch.equal(model.generate(sequences, **GREEDY, **{name: state}), whole)
    new = model.generate(sequences[:, -1:], **GREEDY, **{name: again})
    assert torch.equal(new[:, 1:], whole[:, -6:])


def test_a_second_turn_equals_one_call_over_everything(mine, model, ids) -> None:
    sequences, state = returned(model, ids)
    turn = torch.randint(0, TEXT + IMAGE, (2, 20))  # longer than all before it
    everything = torch.cat([sequences, turn], 1)
    expected = torch.stack([greedy(mine, row, 6) for row in everything])
    all_tokens = model.generate(everything, cache=copy.deepcopy(state), **GREEDY)
    assert torch.equal(all_tokens, torch.cat([everything, expected], 1))
    only_new = torch.cat([sequences[:, -1:], turn], 1)
    found = model.generate(only_new, cache=copy.deepcopy(state), **GREEDY)
    assert torch.equal(found[:, 21:], expected)
    mask = torch.ones_like(everything)
    found = model.generate(only_new, cache=state, attention_mask=mask, **GREEDY)
    assert torch.equal(found[:, 21:], expected)


def test_a_ragged_second_turn_equals_each_row_alone(mine, model, ids) -> None:
    """Padding between the turns of one row: the first turn is not forgotten."""
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    sequences, state = returned(model, ids, attention_mask=mask)
    turn = torch.randint(0, TEXT + IMAGE, (2, 4))
    everything = torch.cat([sequences, turn], 1)
    mask = torch.cat([mask, torch.ones(2, 6, dtype=torch.int64), torch.ones_like(turn)], 1)
    mask[1, -4:-1] = 0
    for cache in (state, None):
        found = model.generate(everything, attention_mask=mask, cache=cache, **GREEDY)
        for row in range(2):
            alone = everything[row][mask[row] > 0]
            assert torch.equal(found[row, 17:], greedy(mine, alone, 6))


def test_states_that_do_not_fit_are_refused(model, ids) -> None:
    sequences, state = returned(model, ids)
    with pytest.raises(ValueError, match="of another batch"):
        model.generate(sequences[:1], cache=copy.deepcopy(state), **GREEDY)
    with pytest.raises(ValueError, match="of another batch"):
        model.generate(sequences, cache=copy.deepcopy(state), num_beams=2, **GREEDY)
    for other in (ours(n_layers=3), ours(d_state=8), ours(split="none")):
        with pytest.raises(ValueError, match=r"of another model|2 blocks"):
            from_multimodal(other).generate(sequences, cache=copy.deepcopy(state), **GREEDY)
    with pytest.raises(ValueError, match="already; give at least one more"):
        model.generate(sequences[:, :-1], cache=copy.deepcopy(state), **GREEDY)
    mixed = sequences.clone()
    mixed[1, 0] = (mixed[1, 0] + 1) % TEXT
    with pytest.raises(ValueError, match=r"rows \[0\] begin with the 12 tokens"):
        model.generate(mixed, cache=copy.deepcopy(state), **GREEDY)
    with pytest.raises(ValueError, match="needs use_cache=True"):
        model.generate(sequences, cache=state, use_cache=False, **GREEDY)
    with pytest.raises(TypeError, match="the cache is tuple"):
        model(ids, cache=(1, 2))


def test_the_state_of_a_beam_search_is_not_gone_on_from(model, ids) -> None:
    """Its rows are those of the running beams, and not of the sequences that came back."""
    sequences, state = returned(model, ids[:1], num_beams=2, num_return_sequences=2)
    assert len(sequences) == 2
    with pytest.raises(ValueError, match="of a beam search"):
        model.generate(sequences, cache=state, **GREEDY)


def test_a_prompt_of_embeddings_then_tokens(model, ids) -> None:
    whole = model.generate(ids, max_new_tokens=12, do_sample=False)
    embeds = model.get_input_embeddings()(ids)
    modality = (ids >= TEXT).long()
    for arguments in ({}, {"prefill_chunk_size": 2}, {"num_beams": 3}):
        found = model.generate(inputs_embeds=embeds, modality_ids=modality, **GREEDY, **arguments)
        assert torch.equal(found, model.generate(ids, **GREEDY, **arguments)[:, 7:])
    output = model.generate(
        inputs_embeds=embeds, modality_ids=modality, return_dict_in_generate=True, **GREEDY
    )
    state = next(output[name] for name in CACHE_NAMES if name in output)
    found = model.generate(output.sequences, cache=state, **GREEDY)
    assert torch.equal(found, whole[:, 7:])
    with pytest.raises(ValueError, match="do not tell their modality"):
        model.generate(inputs_embeds=embeds, **GREEDY)


def test_modalities_given_for_the_prompt(model, ids) -> None:
    """Tokens may be of another modality than their ids say; what is drawn has that of its id."""
    other = torch.zeros_like(ids)
    expected = ids
    for _ in range(6):
        drawn = expected[:, 7:]
        modality = torch.cat([other, (drawn >= TEXT).long()], 1)
        with torch.no_grad():
            logits = model(expected, modality_ids=modality).logits
        expected = torch.cat([expected, logits[:, -1:].argmax(-1)], 1)
    for arguments in ({}, {"use_cache": False}, {"prefill_chunk_size": 3}):
        found = model.generate(ids, modality_ids=other, **GREEDY, **arguments)
        assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="modality_ids covers 3 tokens"):
        model.generate(ids, modality_ids=other[:, :3], **GREEDY)


def test_packed_documents_in_a_prompt(mine, model, ids) -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1]] * 2)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2)
    for given in ({"document_ids": documents}, {"position_ids": positions}):
        for arguments in ({}, {"use_cache": False}, {"prefill_chunk_size": 3}):
            found = model.generate(ids, **GREEDY, **given, **arguments)
            for row in range(2):
                assert torch.equal(found[row, 7:], greedy(mine, ids[row, 3:], 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, "stateful models"),
        ({"cache_implementation": "quantized"}, "full attention layers"),
    ],
)
def test_what_transformers_refuses(model, ids, arguments, message: str) -> None:
    """As docs/interop.md says; if a version serves one of them, its tokens are to be tested."""
    with pytest.raises(ValueError, match=message):
        model.generate(ids[:1], **GREEDY, **arguments)


def test_assistants_and_continuous_batches_are_refused(model, ids) -> None:
    with pytest.raises(ValueError, match="stateful models"):
        model.generate(ids[:1], assistant_model=model, **GREEDY)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=TEXT + IMAGE,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
        )
    )
    with pytest.raises(NotImplementedError, match="cannot be an assistant"):
        llama.generate(ids[:1], assistant_model=model, **GREEDY)
    with pytest.raises(ValueError, match="linear_attention"):
        model.generate_batch([[1, 2, 3]])
