"""States: any chunking gives the same, and what a cache refuses."""

from __future__ import annotations

import copy
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mixture_of_mamba import Batch, MambaState, Modality, MultimodalModel
from mixture_of_mamba.generation.sequence import TokenSequence, left_pad
from mixture_of_mamba.models import ModelState
from tests.factories.models import make_model, pack, random_sequence

# Largest difference of logits (of order 10), relative to the largest logit.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def ids(length: int, rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, modality_ids), with switches in mid-sequence."""
    sequences = [random_sequence(length, seed + i) for i in range(rows)]
    return (
        torch.tensor([s.tokens for s in sequences]),
        torch.tensor([s.modalities for s in sequences]),
    )


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())


def in_chunks(model: MultimodalModel, tokens, modality_ids, cuts, **kwargs):  # type: ignore[no-untyped-def]
    """Logits of all positions and the last cache, reading up to each cut in one call."""
    logits, cache, start = [], None, 0
    for end in [*cuts, tokens.shape[1]]:
        part = {k: v[:, start:end] for k, v in kwargs.items()}
        out, cache = model.advance(
            tokens[:, start:end], modality_ids[:, start:end], cache, all_positions=True, **part
        )
        logits.append(out)
        start = end
    return torch.cat(logits, 1), cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cuts", [range(1, 23), (1, 2, 17), (16,), (3, 3, 20)])
@pytest.mark.parametrize("split", ["all", "none", "in_proj+dt_proj"])
def test_any_chunking_equals_the_whole(dtype, cuts, split) -> None:  # type: ignore[no-untyped-def]
    model = make_model(split=split).to(dtype)
    tokens, modality_ids = ids(23)
    batch = Batch(tokens=tokens, modality_ids=modality_ids)
    with torch.no_grad():
        whole = model(batch, return_logits=True, return_state=True)
    logits, cache = in_chunks(model, tokens, modality_ids, cuts)
    assert error(logits, whole.logits) < TOLERANCE[dtype]
    for ours, theirs in zip(cache, whole.state, strict=True):
        assert ours.conv.dtype == dtype
        assert ours.ssm.dtype == torch.float32
        assert error(ours.ssm, theirs.ssm) < TOLERANCE[dtype]
        assert error(ours.conv, theirs.conv) < TOLERANCE[dtype]


def test_the_state_matters(model: MultimodalModel) -> None:
    tokens, modality_ids = ids(23)
    whole, _ = model.advance(tokens, modality_ids)
    alone, _ = model.advance(tokens[:, -5:], modality_ids[:, -5:])
    assert error(alone, whole) > 1e-2


def test_document_boundaries_between_and_inside_chunks(model: MultimodalModel) -> None:
    tokens, modality_ids = ids(24)
    documents = torch.tensor([[4] * 7 + [5] * 17, [1] * 8 + [2] * 9 + [3] * 7])
    whole, after = model.advance(tokens, modality_ids, document_ids=documents, all_positions=True)
    for cuts in [(7,), (8,), (5, 17), range(1, 24)]:
        logits, cache = in_chunks(model, tokens, modality_ids, cuts, document_ids=documents)
        assert error(logits, whole) < TOLERANCE[torch.float32]
        assert cache.position.tolist() == after.position.tolist() == [17, 7]
        assert cache.document.tolist() == [5, 3]
    alone, _ = model.advance(tokens[:1, 7:], modality_ids[:1, 7:], all_positions=True)
    assert error(whole[:1, 7:], alone) < TOLERANCE[torch.float32]


def test_left_padding_equals_each_prompt_alone(model: MultimodalModel) -> None:
    prompts = [random_sequence(n, seed=n) for n in (1, 9, 2, 17)]
    batch = left_pad(prompts)
    logits, cache = model.advance(batch.tokens, batch.modality_ids, document_ids=batch.document_ids)
    assert cache.position.tolist() == [1, 9, 2, 17]
    step = (torch.tensor([[3]]), torch.tensor([[1]]))
    for row, prompt in enumerate(prompts):
        alone, state = model.advance(
            torch.tensor([prompt.tokens]), torch.tensor([prompt.modalities])
        )
        assert error(logits[row : row + 1], alone) < TOLERANCE[torch.float32]
        further, _ = model.advance(*step, cache.select([row]))
        wanted, _ = model.advance(*step, state)
        assert error(further, wanted) < TOLERANCE[torch.float32]


def test_packing_equals_each_prompt_alone(model: MultimodalModel) -> None:
    prompts = [random_sequence(n, seed=n) for n in (5, 1, 12)]
    batch = pack(prompts)
    logits, _ = model.advance(
        batch.tokens, batch.modality_ids, document_ids=batch.document_ids, all_positions=True
    )
    start = 0
    for prompt in prompts:
        alone, _ = model.advance(
            torch.tensor([prompt.tokens]), torch.tensor([prompt.modalities]), all_positions=True
        )
        end = start + len(prompt)
        assert error(logits[:, start:end], alone) < TOLERANCE[torch.float32]
        start = end


def test_snapshot_fork_and_rewind(model: MultimodalModel) -> None:
    tokens, modality_ids = ids(12)
    _, snapshot = model.advance(tokens, modality_ids)
    before = snapshot.clone()
    forks = snapshot.expand(3)
    assert forks.batch == 6
    endings, kinds = torch.arange(6)[:, None], torch.tensor([[0, 1, 2, 0, 1, 2]]).T
    forked, _ = model.advance(endings, kinds, forks)
    for row in range(6):
        alone, _ = model.advance(
            endings[row : row + 1], kinds[row : row + 1], snapshot.select([row // 3])
        )
        assert error(forked[row : row + 1], alone) < TOLERANCE[torch.float32]
    for kept, now in zip(before, snapshot, strict=True):  # nobody wrote into the snapshot
        assert torch.equal(kept.conv, now.conv)
        assert torch.equal(kept.ssm, now.ssm)
    again, _ = model.advance(endings[:2], kinds[:2], snapshot)
    first, _ = model.advance(endings[:2], kinds[:2], before)
    assert torch.equal(again, first)


def test_put_and_concatenate_are_row_wise(model: MultimodalModel) -> None:
    _, a = model.advance(*ids(6, rows=3))
    _, b = model.advance(*ids(9, rows=2, seed=7))
    mixed = a.put([2, 0], b)
    for row, (source, index) in enumerate([(b, 1), (a, 1), (b, 0)]):
        for ours, theirs in zip(mixed, source, strict=True):
            assert torch.equal(ours.ssm[row], theirs.ssm[index])
            assert torch.equal(ours.conv[row], theirs.conv[index])
    assert mixed.position.tolist() == [9, 6, 9]
    assert mixed.document is None
    numbered = (replace(c, document=torch.arange(c.batch) + start) for c, start in ((a, 1), (b, 8)))
    assert next(numbered).put([2, 0], next(numbered)).document.tolist() == [9, 2, 8]
    both = ModelState.concatenate([a, b])
    assert both.position.tolist() == [6, 6, 6, 9, 9]
    assert torch.equal(both[1].ssm[3:], b[1].ssm)


def test_no_state_is_the_zero_state(model: MultimodalModel) -> None:
    zeros = ModelState.zeros(model.config, 2)
    assert torch.equal(model.advance(*ids(5))[0], model.advance(*ids(5), zeros)[0])


def test_size_does_not_grow_with_the_context(model: MultimodalModel) -> None:
    sizes = {model.advance(*ids(length))[1].nbytes for length in (1, 10, 300)}
    assert len(sizes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_state_continues_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    _, cache = model.advance(*ids(9), document_ids=torch.full((2, 9), 3))
    cache.save(tmp_path / "state", model)
    loaded = ModelState.load(tmp_path / "state", model)
    assert loaded.document.tolist() == [3, 3]
    assert loaded.dtype == dtype
    step = (torch.tensor([[1], [2]]), torch.tensor([[0], [1]]))
    assert torch.equal(model.advance(*step, loaded)[0], model.advance(*step, cache)[0])


def test_zero_state_can_be_saved(model: MultimodalModel, tmp_path: Path) -> None:
    ModelState.zeros(model.config, 2).save(tmp_path / "state")
    assert ModelState.load(tmp_path / "state").position.tolist() == [0, 0]


def test_a_pickled_state_of_the_former_name_is_read(model: MultimodalModel, tmp_path: Path) -> None:
    """By torch.load, which runs no pickle's code."""
    _, state = model.advance(*ids(4))
    former = types.ModuleType("mixture_of_mamba.models.cache")
    former.Cache = type("Cache", (), {"__module__": former.__name__})  # type: ignore[attr-defined]
    old = object.__new__(former.Cache)
    vars(old).update(vars(state))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, former.__name__, former)
        torch.save(old, tmp_path / "state.pt")
    again = torch.load(tmp_path / "state.pt", weights_only=True)
    assert type(again) is ModelState
    assert torch.equal(again[0].ssm, state[0].ssm) and again.config == state.config


def test_state_of_other_weights_is_refused(model: MultimodalModel, tmp_path: Path) -> None:
    _, cache = model.advance(*ids(4))
    cache.save(tmp_path / "state", model)
    trained = copy.deepcopy(model)
    with torch.no_grad():
        trained.backbone.blocks[1].mixer.A_log += 0.01
    with pytest.raises(ValueError, match="other weights"):
        ModelState.load(tmp_path / "state", trained)


def test_damaged_missing_and_foreign_files(model: MultimodalModel, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(FileNotFoundError, match="no saved state"):
        ModelState.load(path)
    _, cache = model.advance(*ids(4))
    cache.save(path, model)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({"position": cache.position}, tmp_path / "part", metadata)
    with pytest.raises(ValueError, match=r"incomplete: 0\.conv, 0\.ssm, 1\.conv"):
        ModelState.load(tmp_path / "part")
    whole = path.read_bytes()
    for place in (len(whole) // 2, len(whole) - 1):  # one bit of the states, which stay finite
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="is damaged: its numbers are not those saved"):
            ModelState.load(path)
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="damaged or truncated"):
        ModelState.load(path)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no saved state"):
        ModelState.load(tmp_path / "model.safetensors")


def test_state_of_another_batch_model_or_dtype_is_refused(model: MultimodalModel) -> None:
    _, cache = model.advance(*ids(4, rows=3))
    step = (torch.tensor([[1]]), torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"another batch.*ModelState\.select"):
        model.advance(*step, cache)
    one = cache.select([0])
    with pytest.raises(ValueError, match=r"another model: d_model 32 there, 48 here"):
        make_model(d_model=48).advance(*step, one)
    with pytest.raises(ValueError, match="another model: split"):
        make_model(split="none").advance(*step, one)
    with pytest.raises(ValueError, match=r"another model: modalities .*text:discrete:9"):
        make_model(Modality("text", "discrete", 9)).advance(*step, one)
    with pytest.raises(TypeError, match=r"torch.float32, but the model computes in torch.bfloat16"):
        make_model().bfloat16().advance(*step, one)
    with pytest.raises(ValueError, match="has 2 blocks; this model has 3"):
        model.advance(*step, one.blocks[:2])
    wrong = [MambaState(s.conv[..., :3], s.ssm) for s in one]
    with pytest.raises(ValueError, match="another model: block 0"):
        model.advance(*step, wrong)
    with pytest.raises(ValueError, match="another batch"):
        model(Batch(tokens=step[0], modality_ids=step[1]), state=cache)


def test_wrong_prompts_are_refused(model: MultimodalModel) -> None:
    with pytest.raises(ValueError, match="no tokens to advance by"):
        model.advance(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"valid ids 0\.\.2"):
        model.advance(torch.tensor([[1]]), torch.tensor([[3]]))
    with pytest.raises(ValueError, match="'image' contain 17"):
        model.advance(torch.tensor([[17]]), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="prompt is empty"):
        left_pad([TokenSequence([0], [1]), TokenSequence()])
    attention = make_model(mixer="attention", head_dim=16)
    with pytest.raises(ValueError, match="transformer baselines carry no state"):
        attention.advance(torch.tensor([[1]]), torch.tensor([[0]]))


def test_gradients_flow_through_the_state_until_detached() -> None:
    model = make_model()
    tokens, modality_ids = ids(8)
    first = Batch(tokens=tokens[:, :4], modality_ids=modality_ids[:, :4])
    second = Batch(tokens=tokens[:, 4:], modality_ids=modality_ids[:, 4:])
    state = model(first, return_state=True).state
    whole = torch.autograd.grad(
        model(second, state=state).loss, model.embedding.weight, retain_graph=True
    )[0]
    cut = torch.autograd.grad(model(second, state=state.detach()).loss, model.embedding.weight)[0]
    assert not torch.allclose(whole, cut)
