"""Captions that are dropped in training: where the state begins anew, what a carried state means,
and what the host knows of the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mixture_of_mamba import MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.generation.diffusion import DiffusionOptions, denoise, empty_context
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.ops import Routing
from tests.helpers.sequences import BEGIN, batch_of, caption_first, image_first, model_of, text_only


def trained(chance: float, *, seed: int = 0) -> MultimodalModel:
    model = model_of(cond_drop_prob=chance, seed=seed)
    torch.manual_seed(1)
    with torch.no_grad():
        model.diffusion["image"].outward.weight.normal_(0, 0.3)
        model.embedding.weight.mul_(30)
    return model.double().train()


def part(batch: Batch, start: int, stop: int) -> Batch:
    """Positions [start, stop) of a batch of one row; continuous segments are not cut."""
    here = slice(start, stop)
    image = batch.modality_ids[0] == 1
    values = batch.values["image"][int(image[:start].sum()) : int(image[:stop].sum())]
    fields = ("modality_ids", "tokens", "document_ids", "segment_ids")
    cut = {n: None if (x := getattr(batch, n)) is None else x[:, here] for n in fields}
    return Batch(**cut, values={"image": values} if len(values) else {}, seed=batch.seed)  # type: ignore[arg-type]


def logits(
    model: MultimodalModel, batch: Batch, state: ModelState | None
) -> tuple[Tensor, ModelState]:
    output = model(batch, state=state, return_state=True, return_logits=True)
    assert output.logits is not None and output.state is not None
    return output.logits.detach(), output.state.detach()


@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("cut", [3, 8, 11, 17])
def test_windows_with_a_carried_state_equal_one_window_where_nothing_is_dropped(
    cut: int, documents: bool
) -> None:
    """Whatever the documents' ids are: those of a window's middle say what a state belongs to."""
    whole = batch_of([[text_only(3), text_only(4), text_only(5)]])
    ids = whole.document_ids
    assert ids is not None
    whole = replace(whole, document_ids=ids + 40 if documents else None)
    model = trained(1e-12)  # not zero, but nothing is drawn
    expected, _ = logits(model, whole, None)
    first, state = logits(model, part(with_image(whole), 0, cut), None)
    second, after = logits(model, part(with_image(whole), cut, whole.shape[1]), state)
    torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=1e-9, atol=1e-10)
    plain = trained(0.0)
    _, wanted = logits(plain, whole, None)
    if documents:
        assert after.document is not None and after.document.tolist() == [42]
        assert torch.equal(after.position, wanted.position)
    else:
        assert after.document is None


def with_image(batch: Batch) -> Batch:
    return replace(batch, values={"image": torch.zeros(0, 6)})


@pytest.mark.parametrize("cut", [5, 6])
def test_a_caption_of_an_earlier_window_is_dropped_too(cut: int) -> None:
    """<document> words <image> patches: the image's begin token may be the first of a window."""
    whole = batch_of([[caption_first(1)]])
    model = trained(1 - 1e-9)
    begin = int((whole.tokens[0] == BEGIN).nonzero()[0, 0])
    assert begin == 6
    keep = {"return_logits": True, "return_state": True}
    state = model(part(whole, 0, cut), **keep).state
    found = model(part(whole, cut, whole.shape[1]), state=state, **keep)
    expected = model(part(whole, begin, whole.shape[1]), **keep)  # nothing before it
    torch.testing.assert_close(found.logits[:, begin - cut :], expected.logits)
    torch.testing.assert_close(found.state.blocks, expected.state.blocks)
    assert found.state.document.tolist() == [0]
    assert found.state.position.tolist() == [whole.shape[1]]


def test_the_loss_equals_that_of_a_document_that_begins_at_the_image() -> None:
    model = trained(1 - 1e-9)
    whole = batch_of([[text_only(2), caption_first(1), image_first(2)]])
    found = model(whole)
    model.diffusion.config = replace(model.diffusion.config, cond_drop_prob=0.0)
    starts = torch.zeros_like(whole.tokens, dtype=torch.bool)
    starts[:, :-1] = (whole.modality_ids[:, 1:] == 1) & (whole.modality_ids[:, :-1] == 0)
    assert whole.document_ids is not None
    ids = whole.document_ids
    starts[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    cut = replace(whole, document_ids=starts.long().cumsum(1))
    expected = model(cut)
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.losses["text"], expected.losses["text"])


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The row counts that each routing was given; the device that is asked is "meta"."""
    counts: list[Tensor | None] = []
    build = Routing.build.__func__  # type: ignore[attr-defined]

    def watched(cls: type[Routing], *args: object, **options: Tensor) -> Routing:
        counts.append(options.get("host_offsets"))
        return build(cls, *args, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(Routing, "build", classmethod(watched))
    return counts


def test_the_host_keeps_its_counts(known: list[Tensor | None]) -> None:
    model = model_of(cond_drop_prob=0.5).to("meta").train()
    batch = batch_of([[caption_first(1)]]).to("meta")
    model(batch)
    text = int((batch_of([[caption_first(1)]]).modality_ids == 0).sum())
    assert [x.tolist() for x in known if x is not None] == [[text, text + 4]]
    known.clear()
    model.eval()
    tokens = torch.tensor([[1, 2, 3]])
    state = model.advance(tokens, torch.zeros_like(tokens))[1]
    empty = empty_context(model, BEGIN)
    denoise(model, "image", state, 4, DiffusionOptions(steps=2), [1], unconditional=empty)
    assert [None if x is None else x.tolist() for x in known] == [[3], [1], [0, 8], [0, 4]]
