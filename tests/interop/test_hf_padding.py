"""Padding is passed over wherever it stands: every number is that of the rows without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel

from .hf_models import IMAGE, TEXT, as_batch, greedy, logits_alone, our_name, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import (  # noqa: E402
    MixtureOfMambaConfig,
    MixtureOfMambaForCausalLM,
    from_multimodal,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*runs on backend 'torch'")  # float64

EXACT = {"atol": 1e-11, "rtol": 1e-11}
#: Between, before and behind real tokens; a row without, and one with a single token.
MASK = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 1, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 0, 1, 1, 1],
        [1, 1, 1, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 0],
    ]
)
CUTS = [(3,), (2, 3, 4, 7), tuple(range(1, 9))]


@pytest.fixture(params=["all", "none"])
def mine(request) -> MultimodalModel:  # type: ignore[no-untyped-def]
    return ours(split=request.param).double()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(0, TEXT + IMAGE, MASK.shape)


def real(x: Tensor, mask: Tensor = MASK) -> list[Tensor]:
    """The real tokens of each row."""
    return [row[keep > 0] for row, keep in zip(x, mask, strict=True)]


def chunks(model, ids: Tensor, mask: Tensor, cuts) -> tuple[Tensor, object]:  # type: ignore[no-untyped-def]
    cache, parts, begin = None, [], 0
    for end in (*cuts, ids.shape[1]):
        output = model(ids[:, begin:end], attention_mask=mask[:, :end], cache=cache, use_cache=True)
        cache, begin = output.cache, end
        parts.append(output.logits)
    return torch.cat(parts, 1), cache


@pytest.mark.parametrize("padded_with", [7, -1, 10**6])
def test_logits_of_real_tokens_are_those_without_padding(mine, ids, padded_with: int) -> None:
    logits = from_multimodal(mine)(
        ids.masked_fill(MASK == 0, padded_with), attention_mask=MASK
    ).logits
    for got, alone in zip(real(logits), real(ids), strict=True):
        torch.testing.assert_close(got, logits_alone(mine, alone), **EXACT)


@pytest.mark.parametrize("cuts", CUTS)
def test_chunks_with_padding_anywhere_continue_each_row(mine, ids, cuts) -> None:
    model = from_multimodal(mine)
    with torch.no_grad():
        logits, cache = chunks(model, ids, MASK, cuts)
        for got, alone in zip(real(logits), real(ids), strict=True):
            torch.testing.assert_close(got, logits_alone(mine, alone), **EXACT)
        following = torch.randint(0, TEXT + IMAGE, (len(ids), 2))
        more = model(following, cache=cache, use_cache=True).logits
        for row, alone in enumerate(real(ids)):
            whole = logits_alone(mine, torch.cat([alone, following[row]]))
            torch.testing.assert_close(more[row], whole[-2:], **EXACT)


def test_logits_at_padding_are_those_of_the_token_before(mine, ids) -> None:
    """Wherever a caller reads the last column, also where a chunk is nothing but padding."""
    model = from_multimodal(mine)
    with torch.no_grad():
        whole = model(ids, attention_mask=MASK).logits
        for row, position, source in [(1, 2, 1), (1, 3, 1), (1, 7, 6), (3, 8, 4), (2, 5, 4)]:
            assert torch.equal(whole[row, position], whole[row, source])
        for cuts in CUTS:
            torch.testing.assert_close(chunks(model, ids, MASK, cuts)[0], whole, **EXACT)


def test_gradients_are_those_without_padding(mine, ids) -> None:
    model = from_multimodal(mine)
    weight = torch.randn(*MASK.shape, TEXT + IMAGE, dtype=torch.float64)
    (model(ids, attention_mask=MASK).logits * weight * MASK[..., None]).sum().backward()
    sum(
        (logits_alone(mine, alone) * w).sum()
        for alone, w in zip(real(ids), real(weight), strict=True)
    ).backward()
    expected = dict(mine.named_parameters())
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[our_name(name)].grad, msg=name, **EXACT)


def test_gradients_of_a_chunk_behind_a_state_are_those_without_padding(mine, ids) -> None:
    """Rows of different lengths go through the blocks in parts; their gradients are one sum."""
    model = from_multimodal(mine)
    prefix = torch.randint(0, TEXT + IMAGE, (len(ids), 4))
    weight = torch.randn(*MASK.shape, TEXT + IMAGE, dtype=torch.float64)

    def gradients(run) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
        model.zero_grad()
        run().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    def state(rows: slice):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            return model(prefix[rows], use_cache=True).cache

    def together() -> Tensor:
        logits = model(ids, attention_mask=MASK, cache=state(slice(None))).logits
        return (logits * weight * MASK[..., None]).sum()

    def apart() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row, (alone, w) in enumerate(zip(real(ids), real(weight), strict=True)):
            logits = model(alone[None], cache=state(slice(row, row + 1))).logits[0]
            total = total + (logits * w).sum()
        return total

    found, expected = gradients(together), gradients(apart)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name, **EXACT)


def test_the_loss_is_that_of_the_rows_without_padding(mine, ids) -> None:
    loss = from_multimodal(mine)(ids, attention_mask=MASK, labels=ids).loss
    total, count = 0.0, 0
    for alone in real(ids):
        losses = mine(as_batch(alone[None]))
        numbers = float(losses.counts.sum())
        total, count = total + float(losses.loss.detach()) * numbers, count + numbers
    torch.testing.assert_close(float(loss.detach()), total / count, atol=1e-6, rtol=1e-6)


def test_hidden_states_of_real_tokens_are_those_without_padding(mine, ids) -> None:
    model = from_multimodal(mine)
    found = model(ids, attention_mask=MASK, output_hidden_states=True).hidden_states
    for row, alone in enumerate(real(ids)):
        expected = model(alone[None], output_hidden_states=True).hidden_states
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got[row][MASK[row] > 0], want[0], **EXACT)


@pytest.mark.parametrize("arguments", [{}, {"use_cache": False}, {"prefill_chunk_size": 2}])
def test_generate_continues_prompts_padded_anywhere(mine, ids, arguments) -> None:
    model = from_multimodal(mine)
    found = model.generate(ids, attention_mask=MASK, max_new_tokens=5, do_sample=False, **arguments)
    for row, alone in enumerate(real(ids)):
        assert torch.equal(found[row, 9:], greedy(mine, alone, 5)), f"row {row}"


def test_documents_are_told_apart_from_padding(mine, ids) -> None:
    """Where a caller means a new document, ids of documents or positions say so."""
    model = from_multimodal(mine)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2]] * len(ids))
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 1, 2]] * len(ids))
    for arguments in ({"document_ids": documents}, {"position_ids": positions}):
        logits = model(ids, attention_mask=MASK, **arguments).logits
        for row in range(len(ids)):
            for document in range(3):
                keep = (documents[row] == document) & (MASK[row] > 0)
                if keep.any():
                    alone = logits_alone(mine, ids[row][keep])
                    torch.testing.assert_close(logits[row][keep], alone, **EXACT)


@pytest.mark.parametrize("counting", ["real", "all"])
def test_positions_may_count_padding_or_leave_it_out(mine, ids, counting: str) -> None:
    positions = torch.arange(9).expand(MASK.shape)
    if counting == "real":
        positions = (MASK.cumsum(1) - 1).masked_fill(MASK == 0, 1)  # as transformers' generate
    model = from_multimodal(mine)
    logits = model(ids, attention_mask=MASK, position_ids=positions).logits
    assert torch.equal(logits, model(ids, attention_mask=MASK).logits)


def test_a_row_of_nothing_but_padding() -> None:
    mine = ours().double()
    model = from_multimodal(mine)
    ids, mask = torch.randint(0, 50, (2, 4)), torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        first = model(ids, attention_mask=mask, use_cache=True)
        assert not first.logits[0].any()  # there is no token to predict from
        more = model(ids, cache=first.cache, use_cache=True).logits
    torch.testing.assert_close(more[0], logits_alone(mine, ids[0]), **EXACT)
    whole = logits_alone(mine, torch.cat([ids[1], ids[1]]))
    torch.testing.assert_close(more[1], whole[4:], **EXACT)
    with pytest.raises(ValueError, match="nothing but padding"):
        model.generate(ids, attention_mask=mask, max_new_tokens=2)


def test_recomputed_blocks_under_padding_give_the_same_gradients(ids) -> None:
    model = MixtureOfMambaForCausalLM(
        MixtureOfMambaConfig(
            modalities=[f"text:discrete:{TEXT}", f"image:discrete:{IMAGE}"],
            hidden_size=32,
            num_hidden_layers=2,
            state_size=4,
        )
    )

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(ids, attention_mask=MASK, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients()
    model.activation_checkpointing_enable()
    for a, b in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(a, b)
