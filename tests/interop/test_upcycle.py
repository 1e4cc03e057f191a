"""Upcycling changes nothing on text; freezing keeps it so through training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.interop import Upcycled, load_dense, merge, save_transformers, upcycle
from mixture_of_mamba.modalities.tokenizer_set import special_tokens

from ..helpers.toy_codecs import ToyCodec, toy_tokenizers

TEXT = 41


def dense(**fields) -> MultimodalModel:  # type: ignore[no-untyped-def]
    """A "pretrained" dense model: every parameter moved away from its initial value."""
    config = ModelConfig(
        **{
            "d_model": 16,
            "n_layers": 3,
            "d_state": 4,
            "modalities": [Modality("text", "discrete", TEXT)],
            "split": frozenset(),
        }
        | fields
    )
    model = MultimodalModel(config)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def text_batch(b: int = 3, t: int = 21) -> Batch:
    ids = torch.randint(0, TEXT, (b, t), generator=torch.Generator().manual_seed(2))
    return Batch(tokens=ids, modality_ids=torch.zeros_like(ids))


def mixed_batch(model: MultimodalModel, seed: int) -> Batch:
    """Text, then the last modality, then text: every kind of transition."""
    generator = torch.Generator().manual_seed(seed)
    last = len(model.config.modalities) - 1
    modality = torch.zeros(4, 24, dtype=torch.int64)
    modality[:, 8:16] = last
    segment = torch.cat([torch.arange(3).repeat_interleave(8)[None] + 3 * i for i in range(4)])
    new = model.config.modalities[last]
    tokens = torch.randint(0, TEXT, (4, 24), generator=generator)
    if new.discrete:
        tokens[:, 8:16] = torch.randint(0, new.size, (4, 8), generator=generator)
        tokens[:, 7] = model.config.modalities[0].size - 1  # its begin token
        return Batch(tokens=tokens, modality_ids=modality)
    tokens[:, 8:16] = 0
    values = {new.name: torch.randn(32, new.size, generator=generator)}
    return Batch(tokens=tokens, modality_ids=modality, segment_ids=segment, values=values)


def text_logits(model: MultimodalModel) -> torch.Tensor:
    with torch.no_grad():
        result = model(text_batch(), return_logits=True).logits
    assert result is not None
    return result[..., :TEXT]


NEW = ["image:discrete:19", "image:continuous:6"]


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": True}, {"vocabulary": "separate"}])
@pytest.mark.parametrize("split", [None, "in_proj+out_proj"])
def test_text_logits_are_identical_at_step_0(new: str, fields: dict, split: str | None) -> None:
    before = dense(**fields)
    after = upcycle(before, ["text", new], split=split).model
    assert torch.equal(text_logits(after), text_logits(before))


def test_every_expert_starts_as_the_dense_weight() -> None:
    before = dense(bias=True)
    after = upcycle(before, ["text", "image:discrete:19", "speech:discrete:7"]).model
    state = before.state_dict()
    stacks = [n for n in state if "_proj." in n]
    assert len(stacks) == 3 * 7  # four weights and three biases in each block
    for name in stacks:
        grown = after.state_dict()[name]
        assert grown.shape[0] == 3
        assert all(torch.equal(expert, state[name][0]) for expert in grown), name


def test_vocabularies_keep_their_rows_and_new_rows_have_their_spread() -> None:
    before = dense()
    result = upcycle(before, ["text", "image:discrete:500"])
    assert result.markers == {"<image>": TEXT}
    assert result.kept == {"text": TEXT}
    assert result.model.config.vocabulary_ranges == ((0, TEXT + 1), (TEXT + 1, TEXT + 501))
    for name in ("embedding", "head"):
        old = before.get_parameter(f"{name}.weight")
        new = result.model.get_parameter(f"{name}.weight")
        assert torch.equal(new[:TEXT], old)
        assert 0.9 < float((new[TEXT:].std() / old.std()).detach()) < 1.1
        assert len(new[TEXT:].unique(dim=0)) == 501


def test_markers_of_continuous_modalities_open_and_close_them() -> None:
    result = upcycle(dense(), ["text", "image:continuous:6", "speech:discrete:9"])
    assert result.markers == {"<image>": TEXT, "</image>": TEXT + 1, "<speech>": TEXT + 2}
    assert result.model.config.modalities[0].size == TEXT + 3


def test_markers_are_those_of_the_data() -> None:
    """So that a run goes on with its tokenizers and one more."""
    image, speech = ToyCodec("discrete", 19), ToyCodec("continuous", 6)
    two = toy_tokenizers(TEXT - 3, image=image)
    three = toy_tokenizers(TEXT - 3, image=image, speech=speech)
    run = dense(modalities=[Modality(*m) for m in two.modalities], split="all")
    grown = upcycle(run, ["text", "image", "speech:continuous:6"])
    kinds = zip(three.names[1:], three.kinds[1:], strict=True)
    ids = dict(zip(special_tokens(kinds), sorted(three.special), strict=True))
    assert {name: ids[name] for name in grown.markers} == grown.markers
    assert [(m.name, m.kind, m.size) for m in grown.model.config.modalities] == three.modalities


def test_a_given_text_vocabulary_appends_no_markers() -> None:
    result = upcycle(dense(), [f"text:discrete:{TEXT + 7}", "image:discrete:5"])
    assert result.markers == {}
    assert result.model.config.modalities[0].size == TEXT + 7


def test_a_fourth_modality_joins_a_trained_mixture() -> None:
    mixture = upcycle(dense(), ["text", "image:discrete:19", "speech:discrete:7"]).model
    train(mixture, steps=2)
    four = upcycle(mixture, ["text", "image", "speech", "video:discrete:11"], expert="image")
    assert four.markers == {"<video>": TEXT + 2}
    assert torch.equal(text_logits(four.model), text_logits(mixture))
    state, grown = mixture.state_dict(), four.model.state_dict()
    name = "backbone.blocks.1.mixer.out_proj.weight"
    assert not torch.equal(state[name][0], state[name][1])  # training told the experts apart
    assert torch.equal(grown[name][:3], state[name])
    assert torch.equal(grown[name][3], state[name][1])
    (low, high), (new_low, _) = (
        mixture.config.vocabulary_ranges[1],
        (four.model.config.vocabulary_ranges[1]),
    )
    assert torch.equal(
        grown["head.weight"][new_low : new_low + high - low], state["head.weight"][low:high]
    )


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("optimizer", ["adamw", "fused adamw", "sgd with momentum"])
def test_frozen_text_is_unchanged_to_the_bit_by_training(new: str, optimizer: str) -> None:
    result = upcycle(dense(), ["text", new])
    before, start = text_logits(result.model), copy.deepcopy(result.model.state_dict())
    frozen = result.freeze(["text", "shared"])
    train(result.model, steps=4, optimizer=optimizer)
    assert torch.equal(text_logits(result.model), before)
    moved = {n for n, p in result.model.state_dict().items() if not torch.equal(p, start[n])}
    assert {n for n in start if "_proj." in n} <= moved  # image experts did train
    assert {"embedding.weight", "head.weight"} <= moved
    embedding = result.model.embedding.weight
    if "discrete" in new:
        assert not torch.equal(embedding[TEXT], start["embedding.weight"][TEXT])  # <image> trains
    frozen.release()
    train(result.model, steps=1, optimizer=optimizer)
    assert not torch.equal(text_logits(result.model), before)


def test_without_freezing_training_on_images_does_change_text() -> None:
    result = upcycle(dense(), ["text", NEW[0]])
    before = text_logits(result.model)
    train(result.model, steps=1)
    assert not torch.equal(text_logits(result.model), before)


def test_save_and_load(tmp_path: Path) -> None:
    result = upcycle(dense(), ["text", NEW[0]])
    result.save(tmp_path)
    again = Upcycled.load(tmp_path)
    assert (again.kept, again.markers) == (result.kept, result.markers)
    assert torch.equal(text_logits(again.model), text_logits(result.model))


def test_what_was_frozen_is_saved_and_frozen_again(tmp_path: Path) -> None:
    mixture = upcycle(dense(), ["text", NEW[0]])
    mixture.freeze(["text"])
    held = mixture.freeze(["shared"])
    mixture.save(tmp_path)
    again = Upcycled.load(tmp_path)
    assert again.frozen == ("text", "shared")
    frozen = again.freeze()
    assert frozen.whole == held.whole
    before = text_logits(again.model)
    train(again.model, steps=2)
    assert torch.equal(text_logits(again.model), before)


def test_a_checkpoint_in_half_precision_stays_so(tmp_path: Path) -> None:
    save_transformers(dense(tie_embeddings=True), tmp_path)
    before = load_dense(tmp_path, dtype=torch.bfloat16)
    after = upcycle(before, ["text", NEW[0]]).model
    mine = {n: p.dtype for n, p in after.named_parameters()}
    assert mine == {n: p.dtype for n, p in before.named_parameters()}
    assert torch.equal(text_logits(after), text_logits(before))
    assert after.head.weight is after.embedding.weight


@pytest.mark.parametrize(
    ("modalities", "fields", "message"),
    [
        (["image:discrete:5"], {}, "the model has the modalities text; name them first"),
        (["text", "image"], {}, "'image' is new .* say what it is: image:discrete:VOCABULARY"),
        (["text", "image:pixels"], {}, "is not NAME:discrete:VOCABULARY"),
        (["text", "image:pixels:3"], {}, "choose 'discrete' or 'continuous'"),
        (["text:discrete:5", "image:discrete:5"], {}, "cannot become discrete of size 5"),
        (["text", "image:discrete:5", "image:discrete:5"], {}, "must differ"),
        (["text", "a:discrete:5"], {"split": "in_projj"}, "unknown projections"),
        (["text", "a:discrete:5"], {"expert": "b"}, "has no modality 'b'"),
    ],
)
def test_what_cannot_be_is_said(modalities: list[str], fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upcycle(dense(), modalities, **fields)


def test_merging_undoes_upcycling_to_the_bit() -> None:
    before = dense(bias=True)
    after = merge(upcycle(before, ["text", "image:discrete:19", "speech:discrete:7"]).model)
    assert not after.config.split
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.state_dict()[name][: len(tensor)], tensor), name
    assert torch.equal(text_logits(after), text_logits(before))


def test_merging_takes_what_upcycling_gave() -> None:
    mixture = upcycle(dense(), ["text", NEW[0]])
    found, wanted = (merge(m).state_dict() for m in (mixture, mixture.model))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_merging_averages_by_share() -> None:
    mixture = upcycle(dense(), ["text", NEW[0]]).model
    train(mixture, steps=2)
    name = "backbone.blocks.0.mixer.x_proj.weight"
    text, image = mixture.state_dict()[name]
    expected = 0.75 * text + 0.25 * image
    merged = merge(mixture, weights={"text": 3, "image": 1}).state_dict()[name]
    torch.testing.assert_close(merged[0], expected)
    only = merge(mixture, weights={"image": 1.0}).state_dict()[name]
    torch.testing.assert_close(only[0], image)
    with pytest.raises(ValueError, match="this model has text, image"):
        merge(mixture, weights={"video": 1.0})


def test_a_merged_mixture_is_a_dense_checkpoint(tmp_path: Path) -> None:
    merged = merge(upcycle(dense(), ["text", NEW[0]]).model)
    save_transformers(merged, tmp_path)
    again = load_dense(tmp_path)
    assert again.config.vocabulary_size == merged.config.vocabulary_size
    assert torch.equal(text_logits(again), text_logits(merged))


def train(model: MultimodalModel, *, steps: int, optimizer: str = "adamw") -> None:
    """Real steps with weight decay and momentum on interleaved text and the last modality."""
    parameters = list(model.parameters())
    step: torch.optim.Optimizer
    if optimizer == "sgd with momentum":
        step = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)
    else:
        step = torch.optim.AdamW(
            parameters, lr=1e-2, weight_decay=0.1, fused=optimizer.startswith("fused")
        )
    for i in range(steps):
        step.zero_grad()
        output = model(mixed_batch(model, i))
        output.loss.backward()
        step.step()
