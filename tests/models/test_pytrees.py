"""Batches, routings, states and outputs are trees of tensors: torch's wrappers look into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.ops import Routing

CONFIG = ModelConfig(
    d_model=8,
    n_layers=2,
    d_state=4,
    modalities=[Modality("text", "discrete", 7), Modality("image", "continuous", 3)],
)


def batch() -> Batch:
    ids = torch.tensor([[0, 0, 1, 1, 0]])
    return Batch(
        tokens=torch.tensor([[1, 6, 0, 0, 2]]),
        modality_ids=ids,
        values={"image": torch.randn(2, 3)},
        document_ids=torch.tensor([[0, 0, 0, 0, 1]]),
        seed=5,
    )


MADE: dict[str, Callable[[], Any]] = {
    "batch": batch,
    "routing": lambda: Routing.build(batch().modality_ids, 2, batch().document_ids),
    "output": lambda: MultimodalModel(CONFIG)(batch(), return_state=True, return_logits=True),
    "model state": lambda: MultimodalModel(CONFIG)(batch(), return_state=True).state,
    "state": lambda: MultimodalModel(CONFIG)(batch(), return_state=True).state[0],
}


def tensors(x: Any) -> list[Tensor]:
    """All of them, by attribute, item and field: what a tree must have for its leaves."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, dict):
        return [y for v in x.values() for y in tensors(v)]
    if isinstance(x, (tuple, list)):
        return [y for v in x for y in tensors(v)]
    if is_dataclass(x) and not isinstance(x, ModelConfig):
        return [y for f in fields(x) for y in tensors(getattr(x, f.name))]
    return []


@pytest.mark.parametrize("what", MADE)
def test_every_tensor_is_a_leaf_and_comes_back(what: str) -> None:
    x = MADE[what]()
    leaves, spec = pytree.tree_flatten(x)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    assert {id(t) for t in found} == {id(t) for t in tensors(x)}
    assert found
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is type(x)
    assert [id(t) for t in tensors(again)] == [id(t) for t in tensors(x)]
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    paths = pytree.tree_flatten_with_path(x)[0]
    assert [id(leaf) for _, leaf in paths] == [id(leaf) for leaf in leaves]


@pytest.mark.parametrize("what", MADE)
def test_leaves_may_be_anything(what: str) -> None:
    """As the specifications of exported programs have them."""
    marked = pytree.tree_map(lambda leaf: "x", MADE[what]())
    assert set(pytree.tree_leaves(marked)) == {"x"}


def test_a_tree_of_other_ids_has_no_counts() -> None:
    there = batch().to("meta")
    assert there.row_ends is not None
    again = pytree.tree_map(lambda leaf: leaf, there)
    assert again.seed == 5
    assert again.row_ends is None
