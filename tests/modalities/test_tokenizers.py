"""Tokenizers: text, pictures and patches come back, special tokens are where the contract says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.files import DamagedFile
from mixture_of_mamba.modalities.image.patches import PatchCodec, PatchOptions
from mixture_of_mamba.modalities.recorded import read_codecs
from mixture_of_mamba.modalities.text import TextTokenizer
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.training.config import RunConfig
from tests.factories.data import tiny_config


def test_modalities_are_in_order_with_the_sizes_that_a_model_needs(spoken: DataBundle) -> None:
    modalities = tiny_config("chameleon_speech").modalities
    assert spoken.tokenizers.modalities == [
        ("text", "discrete", modalities["text"].given["vocabulary"]),
        ("image", "discrete", modalities["image"].given["codes"] + 1),
        ("speech", "discrete", modalities["speech"].given["units"] + 1),
    ]


@pytest.mark.parametrize("text", ["a red three", "", "ümlaut 漢字 \n\t🎉", "<document><image>"])
def test_any_text_comes_back(spoken: DataBundle, text: str) -> None:
    ids = spoken.tokenizers.encode("text", text)
    assert spoken.tokenizers.decode("text", ids) == text
    assert not set(ids.tolist()) & spoken.tokenizers.special


def test_specials_are_left_out_of_decoded_text(spoken: DataBundle) -> None:
    tokenizers = spoken.tokenizers
    ids = [tokenizers.document[0], *tokenizers.encode("text", "hi"), tokenizers.begin["image"]]
    assert tokenizers.decode("text", ids) == "hi"


def test_discrete_end_tokens_are_the_last_id_of_their_own_modality(spoken: DataBundle) -> None:
    tokenizers = spoken.tokenizers
    text_size = tokenizers.modalities[0][2]
    for m, (name, _, size) in enumerate(tokenizers.modalities[1:], start=1):
        assert tokenizers.end[name] == size - 1
        assert tokenizers.end_modality(name) == m
        assert tokenizers.text.size <= tokenizers.begin[name] < text_size


def test_a_continuous_modality_ends_with_a_text_token(bundle: DataBundle) -> None:
    tokenizers = bundle.tokenizers
    if tokenizers.modalities[1][1] == "continuous":
        assert tokenizers.end["image"] == tokenizers.begin["image"] + 1
        assert tokenizers.end_modality("image") == 0
    assert tokenizers.special == set(range(tokenizers.text.size, tokenizers.sizes[0]))


def test_a_document_is_laid_out_as_the_contract_says(bundle: DataBundle) -> None:
    tokenizers = bundle.tokenizers
    image = bundle.validation_examples[0].items["image"]
    text = tokenizers.encode("text", "a red three")
    encoded = tokenizers.assemble([("text", text), ("image", tokenizers.encode("image", image))])
    n, k = len(text), 64
    assert len(encoded) == 1 + n + 1 + k + 1 + 1
    assert encoded.tokens[0] == tokenizers.document[0]
    np.testing.assert_array_equal(encoded.tokens[1 : 1 + n], text)
    assert encoded.tokens[1 + n] == tokenizers.begin["image"]
    assert encoded.tokens[2 + n + k] == tokenizers.end["image"]
    assert encoded.tokens[-1] == tokenizers.document[1]
    ending = tokenizers.end_modality("image")
    np.testing.assert_array_equal(encoded.modality_ids, [0] * (n + 2) + [1] * k + [ending] + [0])
    np.testing.assert_array_equal(encoded.segment_ids, [0] + [1] * n + [2] * (k + 2) + [3])
    content = tokenizers.encode("image", image)
    if tokenizers.modalities[1][1] == "continuous":
        np.testing.assert_array_equal(encoded.values["image"], content)
    else:
        np.testing.assert_array_equal(encoded.tokens[2 + n : 2 + n + k], content)
    table = tokenizers.modalities
    encoded.batch().check(
        [name for name, _, _ in table],
        [size for _, _, size in table],
        [kind == "discrete" for _, kind, _ in table],
    )


def test_a_prompt_stays_open(spoken: DataBundle) -> None:
    items = [("text", spoken.tokenizers.encode("text", "hello"))]
    whole, prompt = (spoken.tokenizers.assemble(items, close=close) for close in (True, False))
    np.testing.assert_array_equal(whole.tokens[:-1], prompt.tokens)


def test_saved_tokenizers_are_the_same(bundle: DataBundle, tmp_path: Path) -> None:
    bundle.tokenizers.save(tmp_path / "t")
    loaded = TokenizerSet.load(tmp_path / "t")
    assert loaded.modalities == bundle.tokenizers.modalities
    assert loaded.special == bundle.tokenizers.special
    example = bundle.validation_examples[1]
    for name, content in (("text", example.caption), ("image", example.items["image"])):
        assert content is not None
        before = bundle.tokenizers.encode(name, content)
        np.testing.assert_array_equal(loaded.encode(name, content), before)
        after = loaded.decode(name, before)
        np.testing.assert_array_equal(after, bundle.tokenizers.decode(name, before))
    assert not list(tmp_path.rglob("*.pkl")) and not list(tmp_path.rglob("*.pt"))


def test_tokenizers_of_version_0_1_load(bundle: DataBundle, tmp_path: Path) -> None:
    """Its tokenizers.json named kinds, and latents.json said which codec the latents have."""
    folder = tmp_path / "t"
    bundle.tokenizers.save(folder)
    codecs = json.loads((folder / "tokenizers.json").read_text())["codecs"]
    kinds = {"vq": "pictures", "patches": "latents", "units": "units"}
    old = {name: kinds[codec] for name, codec in codecs.items() if name != "text"}
    (folder / "tokenizers.json").write_text(json.dumps({"version": 1, "others": old}))
    if old["image"] == "latents":
        (folder / "image" / "latents.json").write_text('{"source": "patches"}')
    (folder / "SHA256SUMS").unlink()
    loaded = TokenizerSet.load(folder)
    assert loaded.modalities == bundle.tokenizers.modalities
    assert loaded.options == bundle.tokenizers.options


def test_a_folder_without_tokenizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no tokenizers"):
        TokenizerSet.load(tmp_path)


def test_image_codes_decode_to_pictures(spoken: DataBundle) -> None:
    tokenizers = spoken.tokenizers
    example = spoken.validation_examples[0]
    ids = tokenizers.encode("image", example.items["image"])
    assert ids.shape == (tokenizers.fixed_length["image"],) == (64,)
    picture = tokenizers.decode("image", ids)
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8


def test_bad_image_codes_are_refused(spoken: DataBundle) -> None:
    tokenizers = spoken.tokenizers
    with pytest.raises(ValueError, match="64 codes"):
        tokenizers.decode("image", np.zeros(63, np.int64))
    with pytest.raises(ValueError, match="the end token is no code"):
        tokenizers.decode("image", np.full(64, tokenizers.end["image"]))


def test_pictures_of_another_size_are_refused(spoken: DataBundle) -> None:
    with pytest.raises(ValueError, match=r"\(32, 32, 3\) uint8; crop it"):
        spoken.tokenizers.codec("image").encode([np.zeros((48, 32, 3), np.uint8)])
    with pytest.raises(ValueError, match="float32"):
        spoken.tokenizers.encode("image", np.zeros((32, 32, 3), np.float32))


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros((5, 2)), np.array([0.0, np.nan])])
def test_sounds_that_are_none_are_refused(spoken: DataBundle, wave: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"give \(samples,\), not empty|contains NaN"):
        spoken.tokenizers.encode("speech", (wave, 16_000))


def test_unknown_modalities_are_refused(spoken: DataBundle) -> None:
    for ask in (spoken.tokenizers.index, spoken.tokenizers.kind, spoken.tokenizers.codec):
        with pytest.raises(ValueError, match="no modality 'video'; it has text, image, speech"):
            ask("video")
    with pytest.raises(ValueError, match="no modality 'video'"):
        spoken.tokenizers.encode("video", np.zeros(3))
    with pytest.raises(ValueError, match="'text' is the first modality already"):
        TokenizerSet(spoken.tokenizers.text, {"text": spoken.tokenizers.text})


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_patches_come_back_exactly_and_have_unit_scale(patch: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = (rng.random((20, 32, 32, 3)) ** 2 * 255).astype(np.uint8)
    codec = PatchCodec.fit(images, PatchOptions(patch=patch), seed=0, report=print)
    values = np.stack(codec.encode(images))
    assert values.shape == (20, (32 // patch) ** 2, 3 * patch**2)
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    np.testing.assert_array_equal(codec.decode(values), images)
    np.testing.assert_array_equal(codec.decode(values.astype(np.float16)), images)
    codec.save(tmp_path)
    loaded = PatchCodec.load(tmp_path)
    assert loaded.options == codec.options
    np.testing.assert_array_equal(loaded.encode(images), values)


def test_patches_are_squares_of_the_picture() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 4:8, 8:12] = 255  # second row of patches, third column
    codec = PatchCodec(PatchOptions(patch=4), np.zeros(3, np.float32), np.ones(3, np.float32))
    lit = np.flatnonzero(codec.encode(image)[0].max(1))
    np.testing.assert_array_equal(lit, [8 + 2])


def test_patches_refuse_what_does_not_fit() -> None:
    ones = np.ones(3, np.float32)
    codec = PatchCodec(PatchOptions(patch=4), ones, ones)
    with pytest.raises(ValueError, match=r"\(n, 32, 32, 3\)"):
        codec.encode(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(n, 64, 48\)"):
        codec.decode(np.zeros((1, 64, 12), np.float32))


def test_a_foreign_tokenizer_brings_no_state_of_its_own(tmp_path: Path) -> None:
    """Saved with truncation, padding, dropout and a control token: texts are encoded whole, the
    same every time, and the control token's name in a text is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = "hello world, hello there <|endoftext|> hello <unused-350>"
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    theirs.train_from_iterator([words] * 10, trainer)
    theirs.model.dropout = 0.9
    theirs.enable_truncation(4)
    theirs.enable_padding(length=40)
    theirs.save(str(tmp_path / "tokenizer.json"))
    text = TextTokenizer.pretrained(tmp_path, least=400)
    text.save(tmp_path)
    for reader in (text, TextTokenizer.load(tmp_path)):
        (ids,) = reader.encode([words])
        assert reader.decode([ids]) == [words]
        assert 0 not in ids and ids.max() < 300  # neither <|endoftext|> nor <unused-350>
        for _ in range(5):
            np.testing.assert_array_equal(reader.encode([words])[0], ids)


def test_a_tokenizer_that_drops_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="drops characters that it does not know"):
        TextTokenizer.pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["WordLevel", "Unigram"])
def test_the_token_for_the_unknown_is_found(tmp_path: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models

    model = (
        models.WordLevel({"a": 0, "?": 1}, unk_token="?")
        if kind == "WordLevel"
        else models.Unigram([("a", -1.0), ("?", -9.0)], 1)
    )
    Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    text = TextTokenizer.pretrained(tmp_path)
    assert text.unknown == 1
    assert text.encode(["z"])[0].tolist() == [1]


def test_half_a_surrogate_pair_is_refused(bundle: DataBundle) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate U\+D800 at character 2"):
        bundle.tokenizers.encode("text", "a\ud800")


def test_what_codecs_are_is_read_without_them(
    spoken: DataBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "t"
    spoken.tokenizers.save(folder)
    loaded = TokenizerSet.load(folder)

    def load(*_: object) -> None:
        pytest.fail("loaded a codec to read its options")

    for codec in map(loaded.codec, loaded.names):
        monkeypatch.setattr(type(codec), "load", load)
    found = read_codecs(folder)
    assert found == loaded.recorded
    assert found is not None and found["image"] == ("vq", loaded.options["image"], 64)
    config = RunConfig(data=DataConfig(tokenizers=str(folder))).resolved()
    assert {name: m.options for name, m in config.modalities.items()} == loaded.options


def test_a_list_of_codecs_that_was_changed_is_damaged(spoken: DataBundle, tmp_path: Path) -> None:
    spoken.tokenizers.save(tmp_path)
    path = tmp_path / "tokenizers.json"
    path.write_text(path.read_text().replace('"codes": 32', '"codes": 64'))
    with pytest.raises(DamagedFile, match=r"tokenizers\.json is damaged"):
        read_codecs(tmp_path)


def test_image_codes_do_not_depend_on_the_batch_or_on_threads(spoken: DataBundle) -> None:
    codec = spoken.tokenizers.codec("image")
    images = list(np.random.default_rng(5).integers(0, 256, (40, 32, 32, 3), np.uint8))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [codec.encode([image])[0] for image in images]
        torch.set_num_threads(2)
        together = codec.encode(images)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(together, alone)
    again = codec.decode(together)
    np.testing.assert_array_equal(again, [codec.decode([ids])[0] for ids in alone])
