"""Batches on their way to a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixture_of_mamba.batch import Batch


def _batch(*ids: int) -> Batch:
    modality_ids = torch.tensor([ids, ids], dtype=torch.int64)
    return Batch(modality_ids=modality_ids, tokens=torch.zeros_like(modality_ids))


@pytest.mark.parametrize(
    ("ids", "ends"), [((0, 2, 2, 0), [4, 4, 8]), ((1, 1), [0, 4]), ((0, 0, 0), [6]), ((), [0])]
)
def test_a_device_batch_knows_the_host_s_counts(ids: tuple[int, ...], ends: list[int]) -> None:
    there = _batch(*ids).to("meta")
    assert there.row_ends is not None and there.row_ends.device.type == "cpu"
    assert there.row_ends.tolist() == ends
    assert there.row_ends.dtype == torch.int32
    assert there.to("meta").row_ends is there.row_ends


def test_counts_are_forgotten_where_the_ids_may_have_changed() -> None:
    batch = _batch(0, 1, 1).to("meta")
    assert replace(batch, seed=3).row_ends is batch.row_ends is not None
    assert replace(batch, modality_ids=batch.modality_ids.clone()).row_ends is None
    batch.modality_ids.zero_()
    assert batch.row_ends is None
    assert batch.to("meta").row_ends is None


def test_a_batch_that_was_built_on_the_device_knows_nothing() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert Batch(modality_ids=ids, tokens=ids).row_ends is None
    assert _batch(0, 1).row_ends is None  # on the host the ids themselves say it
    assert _batch(0, 1).to("cpu").row_ends is None


def test_a_batch_that_is_there_is_not_made_again() -> None:
    batch = _batch(0, 1)
    assert batch.to("cpu") is batch
    there = batch.to("meta")
    assert there is not batch and there.to("meta") is there


def test_negative_ids_are_named() -> None:
    with pytest.raises(ValueError, match="modality_ids contains -2"):
        _batch(0, -2).to("meta")


IDS = torch.zeros(1, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tokens": IDS.numpy()}, r"tokens is a numpy\.ndarray; give a torch\.Tensor"),
        ({"modality_ids": IDS.tolist()}, r"modality_ids is a list; give a torch\.Tensor"),
        ({"tokens": IDS.float()}, r"tokens is torch\.float32; torch\.int64 is needed"),
        ({"document_ids": IDS.numpy()}, r"document_ids is a numpy\.ndarray"),
        ({"document_ids": IDS.double()}, r"document_ids is torch\.float64; torch\.int64"),
        ({"segment_ids": IDS.bool()}, r"segment_ids is torch\.bool; torch\.int64"),
        ({"loss_mask": IDS}, r"loss_mask is torch\.int64; torch\.bool is needed"),
        ({"values": [IDS]}, "values is a list; give a dict"),
        ({"values": {"image": IDS.numpy()}}, r"values\['image'\] is a numpy\.ndarray"),
        ({"values": {"image": IDS}}, r"values\['image'\] is torch\.int64; torch\.float32"),
        ({"seed": "1"}, "seed is '1'; give a whole number"),
    ],
)
def test_what_is_no_tensor_or_of_another_dtype_is_named(fields: dict, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Batch(**{"tokens": IDS, "modality_ids": IDS, **fields})


def test_32_bit_ids_are_ids() -> None:
    ids = IDS.int()
    batch = Batch(tokens=ids, modality_ids=ids, document_ids=ids, segment_ids=ids)
    assert batch.shape == (1, 3)
