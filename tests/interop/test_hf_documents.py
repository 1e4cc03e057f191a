"""Packed documents, whichever of transformers' ways says where they start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel

from .hf_models import IMAGE, TEXT, as_batch, logits_alone, ours

transformers = pytest.importorskip("transformers")

from mixture_of_mamba.interop.hf import from_multimodal  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*runs on backend 'torch'")  # float64

EXACT = {"atol": 1e-11, "rtol": 1e-11}
LENGTHS = (4, 1, 6, 2)


@pytest.fixture(params=["all", "none"])
def mine(request) -> MultimodalModel:  # type: ignore[no-untyped-def]
    return ours(split=request.param).double()


@pytest.fixture
def documents() -> list[Tensor]:
    return [torch.randint(0, TEXT + IMAGE, (n,)) for n in LENGTHS]


def flattened(documents: list[Tensor], **options) -> dict[str, object]:  # type: ignore[no-untyped-def]
    collate = transformers.DataCollatorWithFlattening(return_tensors="pt", **options)
    return collate([{"input_ids": d.tolist()} for d in documents])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position_ids_start": 2},
        {"return_seq_idx": True},
        {"return_position_ids": False, "return_seq_idx": True},
        {"return_position_ids": False, "return_flash_attn_kwargs": True},
        {"return_flash_attn_kwargs": True, "return_seq_idx": True},
    ],
)
def test_flattened_documents_do_not_see_each_other(mine, documents, options) -> None:
    batch = flattened(documents, **options)
    model = from_multimodal(mine)
    output = model(**batch)
    expected = torch.cat([logits_alone(mine, d) for d in documents])
    torch.testing.assert_close(output.logits[0], expected, **EXACT)
    backbone = model.backbone(**{k: v for k, v in batch.items() if k != "labels"})
    assert torch.equal(model.lm_head(backbone.last_hidden_state), output.logits)
    total = sum(
        float((losses := mine(as_batch(d[None]))).loss.detach()) * (len(d) - 1)
        for d in documents
        if len(d) > 1
    )
    assert losses is not None
    count = sum(n - 1 for n in LENGTHS)
    torch.testing.assert_close(float(output.loss.detach()), total / count, atol=1e-6, rtol=1e-6)


def test_first_tokens_do_not_count_although_their_labels_are_there(mine, documents) -> None:
    batch = flattened(documents)
    model = from_multimodal(mine)
    expected = model(**batch).loss
    torch.testing.assert_close(model(**batch | {"labels": batch["input_ids"]}).loss, expected)


@pytest.mark.parametrize("cut", range(1, 13))
def test_documents_across_chunks(mine, documents, cut: int) -> None:
    ids = torch.cat(documents)[None]
    document = torch.cat([torch.full((n,), 7 - i) for i, n in enumerate(LENGTHS)])[None]
    position = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    model = from_multimodal(mine)
    expected = torch.cat([logits_alone(mine, d) for d in documents])
    for name, numbers in (("document_ids", document), ("position_ids", position)):
        with torch.no_grad():
            first = model(ids[:, :cut], **{name: numbers[:, :cut]}, use_cache=True)
            second = model(ids[:, cut:], **{name: numbers[:, cut:]}, cache=first.cache)
        logits = torch.cat([first.logits, second.logits], 1)[0]
        torch.testing.assert_close(logits, expected, **EXACT)


def test_positions_that_go_on_start_nothing(mine, documents) -> None:
    ids = torch.cat(documents)[None]
    model = from_multimodal(mine)
    positions = torch.arange(5, 5 + ids.shape[1])[None]
    assert torch.equal(model(ids, position_ids=positions).logits, model(ids).logits)


def test_numbers_that_do_not_fit_are_refused(mine) -> None:
    model = from_multimodal(mine)
    ids = torch.randint(0, TEXT + IMAGE, (2, 5))
    for name in ("document_ids", "position_ids", "seq_idx"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(2, 4\)"):
            model(ids, **{name: torch.zeros(2, 4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="cu_seq_lens_q ends at"):
        model(ids[:1], cu_seq_lens_q=torch.tensor([0, 3, 4]))
    with pytest.raises(ValueError, match="differ"):
        model(
            ids[:1],
            cu_seq_lens_q=torch.tensor([0, 2, 5]),
            cu_seq_lens_k=torch.tensor([0, 3, 5]),
        )
