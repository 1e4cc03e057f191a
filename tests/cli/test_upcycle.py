"""`mom upcycle`, from a checkpoint folder to a mixture, a larger mixture, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.cli.main import main
from mixture_of_mamba.interop import Upcycled, load_dense, save_state_spaces

TEXT = 40


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    model = MultimodalModel(
        ModelConfig(
            d_model=16, n_layers=2, d_state=4, modalities=[Modality("text", "discrete", TEXT)]
        )
    )
    save_state_spaces(model, tmp_path / "dense")
    return tmp_path / "dense"


def text_logits(model: MultimodalModel) -> torch.Tensor:
    ids = torch.arange(TEXT)[None]
    with torch.no_grad():
        logits = model(
            Batch(tokens=ids, modality_ids=torch.zeros_like(ids)), return_logits=True
        ).logits
    assert logits is not None
    return logits[..., :TEXT]


def run(*args: object) -> int:
    return main(["upcycle", *map(str, args)])


def test_dense_to_mixture_to_larger_mixture_and_back(dense: Path, capsys) -> None:
    two, three, merged = (dense.parent / name for name in ("two", "three", "merged"))
    image = ["--modalities", "text", "image:discrete:16"]
    assert run(dense, *image, "--freeze", "text", "shared", "--out", two) == 0
    said = capsys.readouterr().out
    assert f"image: discrete, tokens {TEXT + 1}..{TEXT + 16}" in said
    assert f"appended to text: <image> = {TEXT}" in said
    assert "frozen in training: text, shared" in said
    expected = text_logits(load_dense(dense))
    mixture = Upcycled.load(two)
    assert torch.equal(text_logits(mixture.model), expected)
    frozen = mixture.freeze()  # as written by --freeze
    assert frozen.parts == ("text", "shared") and frozen.whole and frozen.rows

    more = ["--modalities", "text", "image", "speech:discrete:9", "--expert", "image"]
    assert run(two, *more, "--out", three) == 0
    assert torch.equal(text_logits(Upcycled.load(three).model), expected)
    assert run(three, "--merge", "--format", "transformers", "--out", merged) == 0
    assert torch.equal(text_logits(load_dense(merged)), expected)


def test_split_is_a_value(dense: Path) -> None:
    out = dense.parent / "out"
    image = ["--modalities", "text", "image:discrete:16"]
    assert run(dense, *image, "--split", "in_proj+out_proj", "--out", out) == 0
    assert MultimodalModel.from_pretrained(out).config.split == {"in_proj", "out_proj"}


def test_the_tokenizer_gets_the_new_tokens_under_their_ids(dense: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{i}": i for i in range(TEXT - 3)}  # the model's vocabulary is padded
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(dense / "tokenizer.json"))
    out = dense.parent / "out"
    assert run(dense, "--modalities", "text", "image:continuous:6", "--out", out) == 0
    again = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    assert again.encode("w1 <image> w2 </image>").ids == [1, TEXT, 2, TEXT + 1]
    assert json.loads((out / "upcycle.json").read_text())["markers"] == {
        "<image>": TEXT,
        "</image>": TEXT + 1,
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--modalities", "text", "image"], "say what it is: image:discrete:VOCABULARY"),
        (["--modalities", "image:discrete:4"], "the model has the modalities text"),
        (["--modalities", "text", "a:discrete:4", "--freeze", "b"], "cannot freeze ['b']"),
        (["--modalities", "text", "a:discrete:4", "--format", "transformers"], "is for --merge"),
        (["--merge", "--modalities", "text"], "--merge takes only --out and --format"),
        ([], "give --modalities, such as: --modalities text image:discrete:1024"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    dense: Path, capsys, args: list[str], message: str
) -> None:
    out = dense.parent / "out"
    assert run(dense, *args, "--out", out) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_what_is_there_is_not_overwritten(dense: Path, capsys) -> None:
    before = (dense / "config.json").read_bytes()
    assert run(dense, "--modalities", "text", "image:discrete:4", "--out", dense) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert (dense / "config.json").read_bytes() == before


def test_a_folder_without_a_model_is_named(tmp_path: Path, capsys) -> None:
    assert run(tmp_path, "--modalities", "text", "a:discrete:4", "--out", tmp_path / "o") == 1
    assert f"{tmp_path} holds no model: config.json is missing" in capsys.readouterr().err
