"""`mom tokenizer`: trains what runs can reuse, describes folders, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.cli.options import Parser, add_run_options, run_config
from mixture_of_mamba.data.build import build
from tests.helpers.tiny_data import tiny_config

TINY = {"scenes": 40, "validation_fraction": 0.2, "text_vocabulary": 384, "image_steps": 3}
OPTIONS = [f"--data.{name}={value}" for name, value in {**TINY, "patch": 8}.items()]


def test_train_writes_tokenizers_that_runs_reuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizers"
    command = ["tokenizer", "train", "--out", str(out), "--data.cache", str(tmp_path), *OPTIONS]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "image: continuous, vectors of 32, 16 an item, autoencoder" in said.out
    assert "mean squared error" in said.err
    assert main(["tokenizer", "inspect", str(out)]) == 0
    assert capsys.readouterr().out == said.out
    bundle = build(tiny_config("transfusion", tokenizers=str(out)), progress=False)
    assert bundle.tokenizers.modalities[1] == ("image", "continuous", 32)
    assert main(command) == 1
    assert "is there already and not empty" in capsys.readouterr().err


def test_configs_of_runs_are_read_without_what_is_not_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.yaml"
    short.write_text(
        yaml.safe_dump({"data": TINY, "train": {"steps": 9}, "model": {"n_layers": 1}})
    )
    files = ["-c", "transfusion", "-c", str(short)]
    out = ["--out", str(tmp_path / "a"), "--data.cache", str(tmp_path)]
    assert main(["tokenizer", "train", *files, *out, "--data.text_code=false"]) == 0
    assert "image: continuous, vectors of 192, 16 an item, patches" in capsys.readouterr().out
    short.write_text("train: {steps: 9}")
    assert main(["tokenizer", "train", "-c", str(short), "--data.patch", "3", *out]) == 1
    assert "patch is 3" in capsys.readouterr().err
    short.write_text("data: {pach: 4}")
    assert main(["tokenizer", "train", "-c", str(short), *out]) == 1
    assert "pach" in capsys.readouterr().err


def test_a_patch_that_cannot_be_is_refused_before_the_autoencoder_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*args: object, **kwargs: object) -> None:
        pytest.fail("trained although its result cannot be used")

    monkeypatch.setattr("mixture_of_mamba.data.latents.autoencoder.train", train)
    out = ["--out", str(tmp_path / "a"), "--data.cache", str(tmp_path)]
    assert main(["tokenizer", "train", *out, *OPTIONS, "--data.patch=2", "--data.window=512"]) == 1
    error = capsys.readouterr().err
    assert "covers 4 pixels, which must divide the patch (2 pixels)" in error


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers with patches of 8 pixels in Z order."""
    folder = tmp_path_factory.mktemp("patches") / "a"
    config = tiny_config("transfusion", patch=8, patch_order="z", text_fraction=0.0)
    build(config, progress=False).tokenizers.save(folder)
    return folder


def options(folder: Path, *more: str) -> list[str]:
    data = {"setting": "transfusion", "tokenizers": folder, "window": 512, **TINY}
    return [*(f"--data.{name}={value}" for name, value in data.items()), *more]


def test_runs_record_the_patches_of_reused_tokenizers(patches: Path) -> None:
    parser = Parser(prog="mom", exit_on_error=False)
    add_run_options(parser)
    data = run_config(parser.parse_args(options(patches))).data
    assert (data.patch, data.patch_order, data.latents) == (8, "z", "patches")
    again = run_config(parser.parse_args(options(patches, "--data.patch=8"))).data
    assert again == data


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--data.patch=2", "data.patch is 2, but the tokenizers in FOLDER were made with 8"),
        ("--data.latents=autoencoder", "data.latents is 'autoencoder', but the tokenizers in"),
    ],
)
def test_what_reused_tokenizers_contradict_is_refused(
    patches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, words: str
) -> None:
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), *options(patches, flag, "--train.steps=1")]) == 1
    error = capsys.readouterr().err
    assert words.replace("FOLDER", str(patches)) in error and error.count("\n") == 1
    assert not out.exists()
    name, _, value = flag.removeprefix("--data.").partition("=")
    fields = {name: int(value) if value.isdigit() else value}
    with pytest.raises(ValueError, match="or other tokenizers"):
        build(tiny_config("transfusion", window=512, tokenizers=str(patches), **fields))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "where to? give: mom tokenizer train --out FOLDER"),
        (["inspect"], "which folder? give: mom tokenizer inspect FOLDER"),
        (["inspect", "/nowhere"], "/nowhere holds no tokenizers"),
        (["train", "--out", "x", "--data.latents", "vae"], "latents is 'vae'; choose from patches"),
        (["train", "--out", "x", "--data.patch", "3"], "patch is 3; choose 2, 4 or 8"),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", *arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
