"""End to end: a model that has learnt two scenes by heart gives them back, in every direction."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.data.examples import Example
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.generation.stepping import why_not_native
from tests.factories.data import tiny_bundle


def seen(generator: Generator, name: str, content: Any) -> Any:
    """What the tokenizer leaves of a picture or a sound."""
    return generator.tokenizers.decode(name, generator.tokenizers.encode(name, content))


def test_captions_to_pictures(learnt: tuple[Generator, list[Example]]) -> None:
    generator, examples = learnt
    made = generator.to_image([e.caption for e in examples], temperature=0)
    for picture, example in zip(made, examples, strict=True):
        assert np.array_equal(picture, seen(generator, "image", example.items["image"]))
    assert not np.array_equal(*made)


def test_captions_to_speech(learnt: tuple[Generator, list[Example]]) -> None:
    generator, examples = learnt
    # behind a caption both an image and an utterance were learnt; here the utterance is asked for
    made = generator.to_speech([e.caption for e in examples], temperature=0)
    for (wave, rate), example in zip(made, examples, strict=True):
        wanted, wanted_rate = seen(generator, "speech", example.items["speech"])
        assert rate == wanted_rate
        assert np.array_equal(wave, wanted)


def test_pictures_and_speech_to_captions(learnt: tuple[Generator, list[Example]]) -> None:
    generator, examples = learnt
    captions = [e.caption for e in examples]
    assert generator.to_text(images=[e.items["image"] for e in examples]) == captions
    speech = [e.items["speech"] for e in examples]
    assert generator.to_text(speech=speech) == captions


def test_free_generation_goes_through_all_modalities(
    learnt: tuple[Generator, list[Example]],
) -> None:
    generator, (example, _) = learnt
    prompt = [("text", example.caption), ("image", example.items["image"])]
    (rest,) = generator.complete([prompt], temperature=0)
    assert [segment.modality for segment in rest] == ["speech"]
    wanted, _ = seen(generator, "speech", example.items["speech"])
    assert np.array_equal(rest[0].content[0], wanted)
    (rest,) = generator.complete([[("speech", example.items["speech"])]], temperature=0)
    assert [tuple(segment) for segment in rest] == [("text", example.caption)]
    (rest,) = generator.complete([[]], to="text", temperature=0.5, seed=3)
    assert rest[0].content in {e.caption for e in learnt[1]}


def test_stream_yields_what_complete_returns(learnt: tuple[Generator, list[Example]]) -> None:
    generator, (example, _) = learnt
    prompt = [("image", example.items["image"])]
    stream = generator.stream(prompt, to="text", temperature=0)
    assert next(stream)[0] == "text"  # before the rest is made
    tokens = [
        t
        for _, t in generator.stream([("image", example.items["image"])], to="text", temperature=0)
    ]
    assert generator.tokenizers.decode("text", tokens) == example.caption


def test_batch_size_changes_nothing(learnt: tuple[Generator, list[Example]]) -> None:
    generator, examples = learnt
    captions = [e.caption for e in examples] * 2
    small = Generator(generator.model, generator.tokenizers, batch_size=1)
    options = {"seed": 4, "temperature": 3.0}
    together, apart = generator.to_image(captions, **options), small.to_image(captions, **options)
    assert all(map(np.array_equal, together, apart))
    assert not np.array_equal(together[0], together[2])  # the same caption, another seed


@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_call_sees_what_the_weights_are_by_then(
    learnt: tuple[Generator, list[Example]], weights: str | None
) -> None:
    generator, (example, other) = learnt
    model = deepcopy(generator.model)
    if weights is not None and (reason := why_not_native(model)):
        pytest.skip(reason)
    again = Generator(model, generator.tokenizers, weights=weights)
    pictures = [example.items["image"]]
    assert again.to_text(images=pictures) == [example.caption]
    for parameter in model.backbone.parameters():
        parameter.data.zero_()  # past autograd, which counts no version of it
    changed = again.to_text(images=pictures)
    assert changed != [example.caption]
    assert again.to_text(images=[other.items["image"]]) == changed  # nothing is read any more


def test_images_of_many_codes_are_whole(
    learnt: tuple[Generator, list[Example]], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, (example, _) = learnt
    # the length of an image decides, also where it is above the limit for documents
    monkeypatch.setattr("mixture_of_mamba.generation.generator.MAX_TOKENS", 10)
    ((image,),) = generator.complete([[("text", example.caption)]], to="image", temperature=0)
    assert np.array_equal(image.content, seen(generator, "image", example.items["image"]))


def test_cut_images_are_left_out(learnt: tuple[Generator, list[Example]]) -> None:
    generator, (example, _) = learnt
    (rest,) = generator.complete([[("text", example.caption)]], to="image", max_tokens=63)
    assert rest == []


def test_pictures_of_other_sizes_are_fitted(learnt: tuple[Generator, list[Example]]) -> None:
    generator, (example, _) = learnt
    large = np.kron(example.items["image"], np.ones((2, 2, 1), np.uint8))
    wide = np.concatenate([large[:, :10] * 0, large, large[:, :10] * 0], 1)
    assert generator.to_text(images=[wide]) == [example.caption]


def test_wrong_prompts_name_what_is_wrong(learnt: tuple[Generator, list[Example]]) -> None:
    generator, (example, _) = learnt
    with pytest.raises(ValueError, match="the text of prompt 1 is empty"):
        generator.to_image(["a red three", "  "])
    with pytest.raises(TypeError, match="a list of texts"):
        generator.to_image("a red three")
    with pytest.raises(ValueError, match=r"no modality 'video'; it has text, image, speech"):
        generator.complete([[("text", "hello")]], to="video")
    with pytest.raises(ValueError, match="segment of modality 'smell', which this model lacks"):
        generator.complete([[("smell", "roses")]])
    with pytest.raises(ValueError, match="give images=, speech= or texts="):
        generator.to_text()
    with pytest.raises(ValueError, match=r"have \[2, 1\] parts"):
        generator.to_text(texts=["a", "b"], images=[example.items["image"]])
    with pytest.raises(ValueError, match=r"float64 of shape \(4, 4\)"):
        generator.to_text(images=[np.zeros((4, 4))])
    with pytest.raises(ValueError, match="not empty, and samples a second"):
        generator.to_text(speech=[(np.zeros(0), 16_000)])
    with pytest.raises(TypeError, match=r"no options \['temprature'\]"):
        generator.to_image(["a red three"], temprature=1)


def test_tokenizers_of_another_model_are_refused(
    learnt: tuple[Generator, list[Example]],
) -> None:
    generator, _ = learnt
    config = ModelConfig(d_model=16, n_layers=1, modalities=[Modality("text", "discrete", 9)])
    with pytest.raises(ValueError, match="use the tokenizers of the model's run"):
        Generator(MultimodalModel(config), generator.tokenizers)


def test_prompts_are_ordinary_documents(learnt: tuple[Generator, list[Example]]) -> None:
    """The prompt of a generation is the beginning of the document that training sees."""
    from mixture_of_mamba.generation.prompts import encode_prompts

    generator, (example, _) = learnt
    tokenizers = generator.tokenizers
    whole = tokenizers.assemble(
        [
            ("text", tokenizers.encode("text", example.caption)),
            ("image", tokenizers.encode("image", example.items["image"])),
        ]
    )
    (prompt,) = encode_prompts(tokenizers, [[("text", example.caption)]], to="image")
    assert prompt.tokens == whole.tokens[: len(prompt)].tolist()
    assert whole.modality_ids[len(prompt)] == 1
    batch = Batch(
        tokens=torch.tensor([prompt.tokens]), modality_ids=torch.tensor([prompt.modalities])
    )
    assert batch.shape == (1, len(prompt))


def test_continuous_images_behind_the_same_calls() -> None:
    bundle = tiny_bundle("transfusion")
    modalities = [Modality(*m) for m in bundle.tokenizers.modalities]
    model = MultimodalModel(ModelConfig(d_model=32, n_layers=2, modalities=modalities)).eval()
    generator = Generator(model, bundle.tokenizers)
    captions = ["a red three", "at the top left a green five", "two"]
    together = generator.to_image(captions, seed=7, steps=3, guidance=1.5)
    assert [p.shape for p in together] == [(32, 32, 3)] * 3
    (alone,) = generator.to_image(captions[1:2], seed=8, steps=3, guidance=1.5)
    # rounded to whole levels, on which float sums in another order may differ by one
    assert np.abs(alone.astype(int) - together[1]).max() <= 1
    assert np.abs(alone.astype(int) - together[0]).max() > 1
    assert len(generator.to_text(images=together, max_tokens=5)) == 3
    (rest,) = generator.complete([[("text", "a"), ("image", together[0])]], max_tokens=5)
    assert {segment.modality for segment in rest} <= {"text", "image"}
    with pytest.raises(ValueError, match="steps is 0"):
        generator.to_image(captions, steps=0)
