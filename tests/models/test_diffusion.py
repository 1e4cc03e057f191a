"""Continuous modalities in the model: losses, packing, weights, dropped captions, bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.batch import Batch
from mixture_of_mamba.data.digits.voices import VOICES, Speaking, Voice
from mixture_of_mamba.modalities.speech.mel import MELS
from mixture_of_mamba.models.continuous import ContinuousProjections
from mixture_of_mamba.models.diffusion import NOISE_BINS
from mixture_of_mamba.models.segments import unbroken_runs
from mixture_of_mamba.ops import Routing
from mixture_of_mamba.ops.routing import document_starts
from tests.helpers.sequences import (
    BEGIN,
    DIM,
    batch_of,
    caption_first,
    image_first,
    model_of,
    text_only,
)


def noised(model: MultimodalModel, batch: Batch):  # type: ignore[no-untyped-def]
    routing = Routing.build(batch.modality_ids, 2, batch.document_ids)
    return routing, model.diffusion.add_noise(batch, routing, model._discrete)


def awake(model: MultimodalModel) -> MultimodalModel:
    """With an output map that is not zero, so that predictions depend on everything."""
    with torch.no_grad():
        model.diffusion["image"].outward.weight.normal_(0, 0.3)
    return model.eval()


def test_loss_of_a_document_does_not_depend_on_what_is_packed_with_it() -> None:
    model = awake(model_of())
    a, b, c = caption_first(1), image_first(2, words=3), text_only(3)
    packed, alone = batch_of([[b, c, a]]), batch_of([[a]])
    routing, together = noised(model, packed)
    own_routing, single = noised(model, alone)
    # the same noise for the image of `a`, wherever it stands
    image = together["image"]
    single["image"] = single["image"]._replace(
        t=image.t[4:], values=image.values[4:], target=image.target[4:]
    )
    hidden, _ = model.backbone(model.embed(packed, routing, together), routing)
    own_hidden, _ = model.backbone(model.embed(alone, own_routing, single), own_routing)
    errors, _ = model.diffusion.errors(hidden, "image", image)
    own_errors, _ = model.diffusion.errors(own_hidden, "image", single["image"])
    torch.testing.assert_close(errors[4:], own_errors)
    n = alone.shape[1]
    torch.testing.assert_close(
        routing.to_time(hidden)[:, -n:], own_routing.to_time(own_hidden), rtol=1e-4, atol=1e-5
    )


def test_total_is_text_plus_weighted_image_loss() -> None:
    model = awake(model_of(weight=5.0))
    batch = batch_of([[caption_first(1), image_first(2)]])
    out = model(batch)
    total = out.losses["text"] + 5.0 * out.losses["image"]
    torch.testing.assert_close(out.loss.detach(), total)
    assert out.counts[1] == 8
    levels = out.noise_levels["image"]
    assert levels.shape == (NOISE_BINS, 2)
    assert levels[:, 1].sum() == 8
    torch.testing.assert_close(levels[:, 0].sum() / 8, out.losses["image"])


def test_an_untrained_output_predicts_zero() -> None:
    model = model_of(prediction="sample").eval()
    batch = batch_of([[caption_first(1)]])
    torch.testing.assert_close(
        model(batch).losses["image"], batch.values["image"].square().mean(), rtol=1e-5, atol=0
    )


def test_masked_positions_do_not_count() -> None:
    model = awake(model_of())
    batch = batch_of([[caption_first(1), caption_first(2)]])
    keep = batch.document_ids == 0
    assert keep is not None
    out = model(replace(batch, loss_mask=keep))
    assert out.counts[1] == 4
    errors = model.diffusion.errors
    routing, noise = noised(model, batch)
    hidden, _ = model.backbone(model.embed(batch, routing, noise), routing)
    each, _ = errors(hidden, "image", noise["image"])
    torch.testing.assert_close(out.losses["image"], each[:4].mean().detach())


def test_equal_seeds_give_equal_noise_and_others_do_not() -> None:
    model = awake(model_of())
    windows = [[caption_first(1), image_first(2)]]
    first, again, other = (model(batch_of(windows, seed)).losses["image"] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_variants_share_noise_and_initial_maps() -> None:
    dense, mixture = model_of("none"), model_of("all")  # type: ignore[arg-type]
    batch = batch_of([[caption_first(1)]], seed=9)
    for name, p in dense.diffusion.named_parameters():
        assert torch.equal(p, mixture.diffusion.get_parameter(name))
    assert torch.equal(
        noised(dense, batch)[1]["image"].values, noised(mixture, batch)[1]["image"].values
    )


def train_text(model: MultimodalModel, batches: list[Batch]) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for batch in batches:
        optimizer.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters() if "diffusion" not in n}


@pytest.mark.parametrize("split", ["none", "all"])
def test_image_weight_zero_trains_the_text_as_text_alone_does(split: str) -> None:
    texts = [[text_only(10 * i + j) for j in range(2)] for i in range(4)]
    image = [BEGIN, torch.randn(4, DIM)]  # nothing after it, so no text that reads an image
    mixed = [batch_of([[*t, image]], i) for i, t in enumerate(texts)]
    alone = [batch_of([t], i) for i, t in enumerate(texts)]
    with_images = train_text(model_of(split, weight=0.0, cond_drop_prob=0.0), mixed)
    text = train_text(model_of(split, weight=0.0, cond_drop_prob=0.0), alone)
    for name, p in text.items():
        torch.testing.assert_close(with_images[name], p, rtol=1e-4, atol=1e-6, msg=name)


def test_absent_images_leave_zero_gradients() -> None:
    model = model_of()
    model(batch_of([[text_only(1)]])).loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        if "diffusion" in name:
            assert not p.grad.any(), name
    model.zero_grad()
    model(replace(batch_of([[text_only(1)]]), values={}), clean=True).loss.backward()
    for name, p in model.diffusion["image"].named_parameters():
        assert "outward" in name or not p.grad.any(), name  # type: ignore[union-attr]


def test_absent_images_cost_a_step_of_decoding_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = awake(model_of())
    batch = replace(batch_of([[text_only(1)]]), values={})
    expected = model(batch, clean=True, return_logits=True).logits[:, -1].detach()
    monkeypatch.delattr(ContinuousProjections, "embed")
    torch.testing.assert_close(model.advance(batch.tokens, batch.modality_ids)[0], expected)


def test_a_dropped_caption_is_an_image_alone() -> None:
    model = awake(model_of(cond_drop_prob=0.999))
    batch = batch_of([[caption_first(1)]], seed=5)
    model.train()
    dropped = model(batch)
    model.eval()
    routing, noise = noised(model, batch)
    # <image> patches </image> </document> from an empty state
    start = 6
    cut = Batch(
        modality_ids=batch.modality_ids[:, start:],
        tokens=batch.tokens[:, start:],
        values=batch.values,
    )
    alone = Routing.build(cut.modality_ids, 2)
    rows = noise["image"].segments.rows - (routing.offsets[0] - alone.offsets[0])
    moved = {"image": noise["image"]._replace(segments=noise["image"].segments._replace(rows=rows))}
    hidden, _ = model.backbone(model.embed(cut, alone, moved), alone)
    error, _ = model.diffusion.errors(hidden, "image", moved["image"])
    torch.testing.assert_close(dropped.losses["image"], error.mean().detach())
    assert model(batch).losses["image"] != dropped.losses["image"]


def test_clean_values_are_context_without_loss() -> None:
    model = awake(model_of())
    batch = batch_of([[image_first(1)]])
    first, second = (model(replace(batch, seed=s), clean=True, return_logits=True) for s in (1, 2))
    assert torch.equal(first.logits, second.logits)  # no noise
    assert first.losses["image"].isnan()
    logits, _ = model.advance(
        batch.tokens, batch.modality_ids, values=batch.values, all_positions=True
    )
    torch.testing.assert_close(first.logits, logits)


def test_segments_are_found_without_segment_ids() -> None:
    batch = batch_of([[caption_first(1), image_first(2)], [image_first(3), caption_first(4)]])
    runs = unbroken_runs(batch, document_starts(batch.document_ids, batch.shape))[
        batch.modality_ids == 1
    ]
    given = batch.segment_ids[batch.modality_ids == 1]  # type: ignore[index]
    assert torch.equal(runs[1:] != runs[:-1], given[1:] != given[:-1])


def spoken(words: list[str], frames: int) -> torch.Tensor:
    """(len(words) * frames, MELS): the middle of each spoken word, scaled to unit spread."""
    speech = Speaking(words, [Voice(VOICES[0], 220, 50)] * len(words)).result().items
    rows = [torch.tensor(x.astype("float32"))[len(x) // 2 :][:frames] for x in speech]
    mel = torch.cat(rows)
    return (mel - mel.mean()) / mel.std()


@pytest.mark.parametrize("speech", ["units", "frames"])
def test_text_image_and_speech_train_in_one_model(speech: str) -> None:
    """Text discrete, images continuous, speech once as units and once as log-mel frames."""
    kinds = {"units": ("discrete", 12), "frames": ("continuous", MELS)}
    modalities = [
        Modality("text", "discrete", 20),
        Modality("image", "continuous", DIM, 5.0),
        Modality("speech", *kinds[speech]),  # type: ignore[arg-type]
    ]
    config = ModelConfig(d_model=24, n_layers=2, d_state=4, modalities=modalities)
    model = MultimodalModel(config)
    ids = torch.tensor([0] * 4 + [1] * 4 + [0] * 2 + [2] * 5 + [0]).repeat(4, 1)
    tokens = torch.randint(12, ids.shape)
    discrete = ids == 0 if speech == "frames" else ids != 1
    values = {"image": torch.randn(16, DIM)}
    if speech == "frames":
        values["speech"] = spoken(["seven", "three", "nine", "zero"], 5)
    batch = Batch(modality_ids=ids, tokens=torch.where(discrete, tokens, 0), values=values)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(40):
        out = model(replace(batch, seed=7))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        history.append({name: float(loss) for name, loss in out.losses.items()})
    for name in config.names:
        assert history[-1][name] < 0.8 * history[0][name], name


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.full((4, DIM), float("nan")), "values['image'] contains NaN or infinity"),
        (torch.zeros(4, DIM + 1), "(4, 7), but the batch has 4 positions"),
        (torch.zeros(3, DIM), "(3, 6), but the batch has 4 positions"),
        (None, "has 4 positions of the continuous modality 'image', but values has no 'image'"),
    ],
)
def test_bad_latents_are_named(values: torch.Tensor | None, words: str) -> None:
    batch = batch_of([[caption_first(1)]])
    batch = replace(batch, values={} if values is None else {"image": values})
    with pytest.raises(ValueError) as error:
        model_of()(batch)
    assert words in str(error.value)


def test_saved_and_loaded_models_agree(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = awake(model_of(prediction="v"))
    model.save_pretrained(tmp_path)
    loaded = MultimodalModel.from_pretrained(tmp_path).eval()
    batch = batch_of([[caption_first(1)]])
    assert torch.equal(model(batch).loss, loaded(batch).loss)
