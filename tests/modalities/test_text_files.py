"""Tokenizers that people have: files of the library `tokenizers`, folders that transformers reads,
and ids on the hub; the ids are those of the library itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.fingerprints import option_digests
from mixture_of_mamba.modalities import pretrained, text_files
from mixture_of_mamba.modalities.image.autoencoder import AutoencoderOptions
from mixture_of_mamba.modalities.text import TextOptions, TextTokenizer
from tests.factories.autoencoders import make

TEXTS = ["a red three at the top left", "two blue nines, 12,345 – café", "漢字\n<|im_start|>user"]


def byte_level(*special: str) -> Tokenizer:
    """Byte-level BPE with the control tokens behind it, as of GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def vocabulary_folder(folder: Path, class_name: str) -> Tokenizer:
    """vocab.json and merges.txt of a BPE, and a config that names its class; no tokenizer.json."""
    tokenizer = byte_level()
    model = json.loads(tokenizer.to_str())["model"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))
    return tokenizer


def same(text: TextTokenizer, expected: Any) -> None:
    """Together and one at a time."""
    ids = [expected(one) for one in TEXTS]
    assert [list(map(int, one)) for one in text.encode(TEXTS)] == ids
    assert [list(map(int, text.encode([one])[0])) for one in TEXTS] == ids


@pytest.mark.parametrize("class_name", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_a_vocabulary_with_merges_gives_the_ids_of_its_library(
    tmp_path: Path, class_name: str
) -> None:
    import transformers

    original = vocabulary_folder(tmp_path / "a", class_name)
    reference = getattr(transformers, class_name).from_pretrained(tmp_path / "a")

    def ids(text: str) -> list[int]:
        found: list[int] = reference(text, add_special_tokens=False)["input_ids"]
        if class_name == "GPT2Tokenizer":  # Qwen's cuts numbers into digits, before any merge
            assert found == original.encode(text).ids
        return found

    text = TextTokenizer.pretrained(tmp_path / "a")
    same(text, ids)
    assert text.decode(text.encode(TEXTS)) == TEXTS
    text.save(tmp_path / "saved")
    same(TextTokenizer.load(tmp_path / "saved"), ids)


def test_word_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "red",
        "t",
        "##hree",
        "##op",
        "left",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    reference = BertTokenizer.from_pretrained(tmp_path)
    text = TextTokenizer.pretrained(tmp_path)
    assert text.unknown == 1
    same(text, lambda one: reference(one, add_special_tokens=False)["input_ids"])


def test_a_sentencepiece_model_gives_the_ids_of_sentencepiece(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "lines.txt"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=9,
    )
    (tmp_path / "tokenizer.vocab").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    same(TextTokenizer.pretrained(tmp_path), reference.encode)


def test_a_sentencepiece_model_without_its_package_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"a vocabulary")
    monkeypatch.setattr(text_files, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tokenizer.model needs the package 'sentencepiece'"):
        TextTokenizer.pretrained(tmp_path)


def test_a_unigram_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("▁red", -4.0)]
    made = T5Tokenizer(vocab=pieces, extra_ids=4)
    made.save_pretrained(tmp_path)
    text = TextTokenizer.pretrained(tmp_path)
    assert text.unknown == 2 and text.size == len(made)
    same(text, lambda one: made(one, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    "special",
    [
        ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ],
)
def test_control_tokens_of_llama_and_qwen_keep_their_ids_and_are_no_text(
    tmp_path: Path, special: tuple[str, ...]
) -> None:
    from transformers import PreTrainedTokenizerFast

    plain, tokenizer = byte_level(), byte_level(*special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], additional_special_tokens=special[1:]
    ).save_pretrained(tmp_path)
    text = TextTokenizer.pretrained(tmp_path, least=400)
    assert [text.vocabulary()[name] for name in special] == list(
        range(plain.get_vocab_size(), plain.get_vocab_size() + len(special))
    )
    assert text.size == 400 and text.vocabulary()["<unused-399>"] == 399
    same(text, lambda one: plain.encode(one).ids)


def test_only_the_tokenizers_files_count_wherever_they_lie(tmp_path: Path) -> None:
    for name in ("a", "b"):
        vocabulary_folder(tmp_path / name, "GPT2Tokenizer")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"weights")
    first, second = (TextOptions(tokenizer=str(tmp_path / name)) for name in ("a", "b"))
    digests = option_digests(first)
    assert set(digests["tokenizer"]) == {"vocab.json", "merges.txt", "tokenizer_config.json"}
    assert option_digests(second) == digests
    (tmp_path / "b" / "merges.txt").write_text("#version: 0.2\n")
    assert option_digests(second) != digests
    byte_level().save(str(tmp_path / "b" / "tokenizer.json"))
    assert set(option_digests(second)["tokenizer"]) == {"tokenizer.json"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Names the folder of a repository in an empty cache of the hub, laid out as by a download."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "_SNAPSHOTS", {})

    def make_repository(name: str) -> Path:
        commit = "0123456789abcdef0123456789abcdef01234567"
        base = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (base / "refs").mkdir(parents=True)
        (base / "refs" / "main").write_text(commit)
        (base / "snapshots").mkdir()
        return base / "snapshots" / commit

    return make_repository


def test_a_cached_id_of_the_hub_works_without_network(hub: Any, tmp_path: Path) -> None:
    """Through `mom train` and `mom generate`: a tokenizer, and an autoencoder in a sub-folder."""
    original = vocabulary_folder(hub("someone/words"), "GPT2Tokenizer")
    same(TextTokenizer.pretrained("someone/words"), lambda one: original.encode(one).ids)
    make("tiny", hub("someone/pictures") / "vae")
    documents = tmp_path / "documents"
    documents.mkdir()
    for i in range(6):
        Image.new("RGB", (32, 32), (40 * i, 10, 99)).save(documents / f"{i}.png")
        (documents / f"{i}.txt").write_text(f"a colour of kind {i}")
    image = {"codec": "autoencoder", "pretrained": "someone/pictures/vae", "patch": 8}
    config = {
        "modalities": {"text": {"codec": "bpe", "tokenizer": "someone/words"}, "image": image},
        "data": {"source": str(documents), "cache": str(tmp_path / "cache"), "window": 64},
        "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
        "train": {"steps": 1, "batch_size": 2, "warmup": 1, "evaluate_every": 1, "log_every": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = ["train", "-c", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert recorded["modalities"]["text"]["tokenizer"] == "someone/words"
    out = tmp_path / "a.png"
    drawing = ["--text", "a colour", "--to", "image", "--out", str(out)]
    assert main(["generate", str(tmp_path / "run"), *drawing]) == 0
    assert Image.open(out).size == (32, 32)
    assert TextTokenizer.load(tmp_path / "run" / "tokenizers" / "text").size == 1020


def test_an_id_that_is_not_cached_is_an_error_with_a_remedy(hub: Any) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=r"tokenizer: nobody/nothing is no folder here.*with: hf download nobody/nothing",
    ):
        TextOptions(tokenizer="nobody/nothing").check_files()
    hub("someone/pictures").mkdir()
    options = AutoencoderOptions(pretrained="someone/pictures/vae", patch=8)
    with pytest.raises(FileNotFoundError, match="someone/pictures on the hub has no folder 'vae'"):
        options.check_files()


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, FileNotFoundError, r"tokenizer\.json does not exist, nor does another vocabulary"),
        ({"tokenizer.json": "{"}, ValueError, r"tokenizer\.json is no tokenizer: "),
        (
            {
                "vocab.json": "{}",
                "tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a.B"]}}',
            },
            ValueError,
            r"tokenizer_config\.json: the tokenizer needs code of its own folder \(auto_map\)",
        ),
        (
            {"vocab.txt": "a", "tokenizer_config.json": '{"tokenizer_class": "ByT5Tokenizer"}'},
            ValueError,
            "holds a ByT5Tokenizer, which the library `tokenizers` cannot compute; give",
        ),
        (
            {"vocab.json": "{}", "tokenizer_config.json": '{"tokenizer_class": "Unheard"}'},
            ValueError,
            "the tokenizer in .* cannot be loaded",
        ),
        ({"vocab.json": "{}"}, ValueError, "the tokenizer in .* cannot be loaded"),
    ],
)
def test_folders_that_cannot_be_used_are_named(
    tmp_path: Path, files: dict[str, str], error: type[Exception], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        TextTokenizer.pretrained(tmp_path)
