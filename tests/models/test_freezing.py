"""Frozen rows of stacked weights: no gradient, no decay, no momentum; the rest trains as ever."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.models import frozen as frozen_module
from mixture_of_mamba.models.freezing import freeze

TEXT, IMAGE = 13, 9


def make(**fields) -> MultimodalModel:  # type: ignore[no-untyped-def]
    modalities = [Modality("text", "discrete", TEXT), Modality("image", "discrete", IMAGE)]
    return MultimodalModel(
        ModelConfig(
            **{"d_model": 16, "n_layers": 2, "d_state": 4, "modalities": modalities} | fields
        )
    )


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    """What an earlier test froze is not this test's business."""
    frozen_module._ACTIVE.clear()
    yield
    frozen_module._ACTIVE.clear()


@pytest.fixture
def batch() -> Batch:
    modality = torch.tensor([[0] * 4 + [1] * 5 + [0] * 3] * 2)
    return Batch(tokens=torch.randint(0, IMAGE, modality.shape), modality_ids=modality)


def step(model: MultimodalModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(batch).loss.backward()
    optimizer.step()


def decaying(model: MultimodalModel) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)


def test_frozen_rows_weigh_nothing_in_the_gradient_norm(batch) -> None:
    model = make()
    frozen = freeze(model, ["text"])
    model(batch).loss.backward()
    stacks = {n for n, p in model.named_parameters() if "_proj." in n}
    assert set(frozen.rows) == stacks | {"embedding.weight", "head.weight"}
    for name, rows in frozen.rows.items():
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        assert not gradient[rows].any()
        others = torch.ones(len(gradient), dtype=torch.bool).index_fill(0, rows, False)
        assert gradient[others].any(), name
    assert model.backbone.norm.weight.grad is not None  # "shared" was not asked for


def test_the_rest_trains_as_if_nothing_were_frozen(batch) -> None:
    """One step of SGD: rows that are not frozen move exactly as in a model without freezing."""
    free, held = make(), make()
    frozen = freeze(held, ["text"])
    for model in (free, held):
        step(model, batch, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    start = make().state_dict()
    for name, p in held.named_parameters():
        rows = frozen.rows.get(name, torch.arange(0))
        assert torch.equal(p[rows], start[name][rows]), name
        others = torch.ones(len(p), dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(p[others], free.get_parameter(name)[others]), name


def test_only_the_first_tokens_may_be_frozen(batch) -> None:
    model = make(tie_embeddings=True)
    start = model.embedding.weight.detach().clone()
    freeze(model, ["text"], tokens={"text": 5})
    step(model, batch, decaying(model))
    assert torch.equal(model.embedding.weight[:5], start[:5])
    assert (model.embedding.weight[5:] != start[5:]).any(1).all()


def test_shared_alone_leaves_the_experts_free(batch) -> None:
    model = make(split={"in_proj"})
    frozen = freeze(model, ["shared"])
    assert not frozen.rows
    free = {n for n, p in model.named_parameters() if p.requires_grad}
    blocks = {f"backbone.blocks.{i}.mixer.in_proj.weight" for i in range(2)}
    assert free == blocks | {"embedding.weight", "head.weight"}


def test_an_optimizer_that_was_made_before_is_held_too(batch) -> None:
    model = make()
    optimizer = decaying(model)
    step(model, batch, optimizer)  # momentum and gradients are there already
    start = copy.deepcopy(model.state_dict())
    frozen = freeze(model, ["text", "shared"])
    step(model, batch, optimizer)
    for name in frozen.whole:
        assert torch.equal(model.get_parameter(name), start[name]), name
    for name, rows in frozen.rows.items():
        assert torch.equal(model.get_parameter(name)[rows], start[name][rows]), name


def test_the_transformer_baseline_freezes_too(batch) -> None:
    model = make(mixer="attention", head_dim=8)
    start = copy.deepcopy(model.state_dict())
    freeze(model, ["text", "shared"])
    step(model, batch, decaying(model))
    name = "backbone.blocks.0.mixer.in_proj.weight"
    assert torch.equal(model.get_parameter(name)[0], start[name][0])
    assert not torch.equal(model.get_parameter(name)[1], start[name][1])


def test_all_modalities_frozen_freezes_the_stack_until_released(batch) -> None:
    model = make()
    frozen = freeze(model, ["text", "image", "shared"])
    assert not frozen.rows
    assert not any(p.requires_grad for p in model.parameters())
    frozen.release()
    start = copy.deepcopy(model.state_dict())
    step(model, batch, decaying(model))
    assert all((p != start[n]).any() for n, p in model.named_parameters())


def test_other_optimizers_go_on_when_the_model_is_gone(batch) -> None:
    model, other = make(), make()
    freeze(model, ["text"])
    optimizer = decaying(other)
    step(other, batch, optimizer)
    assert len(frozen_module._ACTIVE) == 1
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    step(other, batch, optimizer)
    assert not frozen_module._ACTIVE


def test_weights_that_are_loaded_later_are_kept(batch) -> None:
    model, other = make(), make()
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(torch.randn_like(p))
    optimizer = decaying(model)
    frozen = freeze(model, ["text", "shared"])
    step(model, batch, optimizer)
    loaded = other.state_dict()
    model.load_state_dict(loaded)
    for _ in range(2):
        step(model, batch, optimizer)
    for name in frozen.whole:
        assert torch.equal(model.get_parameter(name), loaded[name]), name
    for name, rows in frozen.rows.items():
        p = model.get_parameter(name)
        assert torch.equal(p[rows], loaded[name][rows]), name
        assert not torch.equal(p, loaded[name]), name


def test_a_parameter_that_takes_the_place_of_a_frozen_one_is_not_trained(batch) -> None:
    model = make()
    frozen = freeze(model, ["text", "shared"])
    model.load_state_dict(make().state_dict(), assign=True)
    start = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"is frozen, but the model has another parameter there"):
        step(model, batch, decaying(model))
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
    frozen.release()
    frozen = freeze(model, ["text", "shared"])
    step(model, batch, decaying(model))
    for name, rows in frozen.rows.items():
        assert torch.equal(model.get_parameter(name)[rows], start[name][rows]), name


PARTS = [["text"], ["shared"], ["text", "image"], ["image", "shared"]]


@pytest.mark.parametrize("first_goes", [False, True])
@pytest.mark.parametrize("second", PARTS)
@pytest.mark.parametrize("first", PARTS)
def test_what_one_freeze_holds_another_does_not_give_back(
    batch, first: list[str], second: list[str], first_goes: bool
) -> None:
    """Two at once, one released: a step moves what it moves in a model with the other one alone."""
    model, alone = make(), make()
    held = [freeze(model, first), freeze(model, second)]
    kept = freeze(alone, second if first_goes else first)
    held[0 if first_goes else 1].release()
    start = make().state_dict()
    for m in (model, alone):
        step(m, batch, decaying(m))
    for name, p in model.named_parameters():
        assert torch.equal(p, alone.get_parameter(name)), name
        assert p.requires_grad == alone.get_parameter(name).requires_grad, name
        if name in kept.whole:
            assert torch.equal(p, start[name]), name
    held[1 if first_goes else 0].release()
    assert all(p.requires_grad for p in model.parameters())
    step(model, batch, decaying(model))
    assert all((p != start[n]).any() for n, p in model.named_parameters())
    kept.release()
    assert not frozen_module._ACTIVE


def test_parameters_that_needed_no_gradient_do_not_need_one_after_a_release(batch) -> None:
    model = make()
    norm, stack = model.backbone.norm.weight, model.backbone.blocks[0].mixer.in_proj.weight
    for p in (norm, stack):
        p.requires_grad_(False)
    frozen = freeze(model, ["text", "shared"])
    frozen.release()
    frozen.release()  # and it may be said twice
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        "backbone.norm.weight",
        "backbone.blocks.0.mixer.in_proj.weight",
    }


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_it_holds_inside_ddp(batch, one_process) -> None:
    model = make()
    start = copy.deepcopy(model.state_dict())
    frozen = freeze(model, ["text", "shared"])
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = decaying(model)
    for _ in range(2):
        optimizer.zero_grad()
        wrapped(batch).loss.backward()
        optimizer.step()
    for name, rows in frozen.rows.items():
        p = model.get_parameter(name)
        assert torch.equal(p[rows], start[name][rows]), name
        assert not torch.equal(p, start[name]), name


def test_a_model_that_fsdp_divided_is_refused(one_process) -> None:
    model = make()
    fully_shard(model)
    with pytest.raises(ValueError, match=r"divided among devices \(FSDP\).*train with DDP"):
        freeze(model, ["text"])


def test_a_frozen_model_that_fsdp_divides_is_not_trained(batch, one_process) -> None:
    model = make()
    freeze(model, ["text"])
    fully_shard(model)
    model(batch).loss.backward()
    with pytest.raises(RuntimeError, match="divided by FSDP"):
        decaying(model).step()


def test_freezing_what_is_not_there_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"cannot freeze \['video'\]; this model has text, image"):
        freeze(model, ["video"])
    with pytest.raises(ValueError, match="nothing to freeze was named; choose from text, image"):
        freeze(model, [])
    with pytest.raises(ValueError, match="its vocabulary has 13 entries"):
        freeze(model, ["text"], tokens={"text": 14})
