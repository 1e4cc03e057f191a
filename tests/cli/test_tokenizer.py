"""`mom tokenizer`: trains what runs can reuse, describes folders, and says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.cli.options import Parser, add_run_options, run_config
from mixture_of_mamba.data.build import build, settled
from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.modalities.image.autoencoder import AutoencoderCodec
from mixture_of_mamba.modalities.image.kl_network import train
from mixture_of_mamba.modalities.options import AutoencoderOptions
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.training.config import ModelSettings, RunConfig, TrainConfig
from mixture_of_mamba.training.loop import train as train_run
from mixture_of_mamba.training.runs import read_config
from tests.helpers.tiny_data import tiny_bundle, tiny_config

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

    monkeypatch.setattr("mixture_of_mamba.modalities.image.autoencoder.train", train)
    out = ["--out", str(tmp_path / "a"), "--data.cache", str(tmp_path)]
    assert main(["tokenizer", "train", *out, *OPTIONS, "--data.patch=2", "--data.window=512"]) == 1
    error = capsys.readouterr().err
    assert "covers 4 pixels, which must divide the patch (2 pixels)" in error


def reused(setting: str, folder: Path, *more: str) -> RunConfig:
    """The run that such flags describe; files and presets go in `more`."""
    parser = Parser(prog="mom", exit_on_error=False)
    add_run_options(parser)
    flags = [f"--data.setting={setting}", f"--data.tokenizers={folder}", "--data.window=512"]
    return run_config(parser.parse_args([*flags, *more]))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers with patches of 8 pixels in Z order."""
    folder = tmp_path_factory.mktemp("patches") / "a"
    config = tiny_config("transfusion", patch=8, patch_order="z", text_fraction=0.0)
    build(config, progress=False).tokenizers.save(folder)
    return folder


@pytest.fixture(scope="module")
def cells(patches: Path) -> Path:
    """Tokenizers of a small autoencoder, whose vectors stand for 4 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    codec = AutoencoderCodec.measured(
        train(images, steps=1, seed=0), images, AutoencoderOptions(patch=4)
    )
    text = TokenizerSet.load(patches).text
    folder = patches.with_name("cells")
    TokenizerSet(text, {"image": codec}).save(folder)
    return folder


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers of discrete images and speech: 384 text tokens, 32 codes, 32 units."""
    folder = tmp_path_factory.mktemp("codes") / "a"
    tiny_bundle().tokenizers.save(folder)
    return folder


def test_runs_record_what_reused_tokenizers_decide(patches: Path, cells: Path, codes: Path) -> None:
    data = reused("transfusion", patches).data
    assert (data.patch, data.patch_order, data.latents) == (8, "z", "patches")
    text = TokenizerSet.load(patches).modalities[0][2]  # fewer than 384: the texts have no more
    assert (data.text_vocabulary, data.image_size) == (text, 32)
    assert reused("transfusion", patches, "--data.patch=8", "--data.latents=patches").data == data
    data = reused("transfusion", cells).data
    assert (data.patch, data.patch_order, data.latents) == (4, "rows", "autoencoder")
    data = reused("chameleon_speech", codes).data
    assert (data.text_vocabulary, data.image_codes, data.speech_units) == (384, 32, 32)
    assert (data.image_size, data.latents, data.patch) == (32, "patches", 4), "no latents: defaults"


def test_values_of_a_preset_are_not_the_users(patches: Path, cells: Path, tmp_path: Path) -> None:
    """configs/transfusion.yaml says patches of 8 pixels, for those who say nothing."""
    assert reused("transfusion", cells, "-c", "transfusion").data.patch == 4
    assert reused("transfusion", patches, "-c", "configs/transfusion.yaml").data.patch_order == "z"
    mine = tmp_path / "transfusion.yaml"  # a file of one's own under a preset's name
    mine.write_text("data: {setting: transfusion, patch: 8}")
    with pytest.raises(ValueError, match=r"data.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", str(mine))
    with pytest.raises(ValueError, match=r"data.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", "transfusion", "--data.patch=8")
    with pytest.raises(ValueError, match=r"data.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", "transfusion", "--data={patch: 8}")
    mine.write_text(f"data: {{tokenizers: {patches}}}")  # a file on top of the preset
    parser = Parser(prog="mom", exit_on_error=False)
    add_run_options(parser)
    both = run_config(parser.parse_args(["-c", "transfusion", "-c", str(mine)])).data
    assert (both.patch, both.patch_order) == (8, "z")
    nothing = ["--data.tokenizers=null", "--data.image_steps=1"]
    assert reused("transfusion", cells, "-c", "transfusion", *nothing).data.patch == 8


@pytest.mark.parametrize(
    ("setting", "flag", "words"),
    [
        ("transfusion", "--data.patch=2", "data.patch is 2, but the tokenizers in F were made wi"),
        ("transfusion", "--data.patch_order=rows", "data.patch_order is 'rows', but the tokeni"),
        ("transfusion", "--data.latents=autoencoder", "data.latents is 'autoencoder', but the to"),
        ("autoencoder", "--data.latents=patches", "data.latents is 'patches', but the tokenizers"),
        ("autoencoder", "--data.latents=.", "data.latents is '.', but the tokenizers in F were ma"),
        ("transfusion", "--data.latents=.", "data.latents is '.', but the tokenizers in F were ma"),
        ("transfusion", "--data.text_vocabulary=1024", "data.text_vocabulary is 1024, but the tok"),
        ("chameleon_speech", "--data.image_codes=512", "made with 32; give data.image_codes 32"),
        ("chameleon_speech", "--data.speech_units=256", "made with 32; give data.speech_units 32"),
    ],
)
def test_what_reused_tokenizers_contradict_is_refused(
    patches: Path,
    cells: Path,
    codes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    flag: str,
    words: str,
) -> None:
    """Defaults among them: a value that was set is the user's, whatever it is."""
    folder = {"transfusion": patches, "autoencoder": cells, "chameleon_speech": codes}[setting]
    setting = setting.replace("autoencoder", "transfusion")
    reuse = [f"--data.setting={setting}", f"--data.tokenizers={folder}", "--data.window=512"]
    assert main(["train", "--out", str(tmp_path / "run"), *reuse, flag, "--train.steps=1"]) == 1
    error = capsys.readouterr().err
    assert words.replace(" F ", f" {folder} ") in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    name, _, value = flag.removeprefix("--data.").partition("=")
    fields: dict[str, Any] = {name: int(value) if value.isdigit() else value}
    with pytest.raises(ValueError, match="or give other tokenizers"):
        build(DataConfig(setting=setting, tokenizers=str(folder), window=512, **fields))


def test_a_run_from_python_records_them_too(patches: Path, tmp_path: Path) -> None:
    """So that the command line can resume it, which reads the tokenizers before it compares."""
    data = tiny_config("transfusion", tokenizers=str(patches), text_fraction=0.0)
    fields = {"image_codes", "speech_units", "text_vocabulary"}
    data = replace(data, window=512, **dict.fromkeys(fields))
    assert data.patch is None
    config = RunConfig(
        data=data,
        model=ModelSettings(d_model=16, n_layers=1),
        train=TrainConfig(steps=1, batch_size=2, samples=0, tensorboard=False, progress=False),
    )
    train_run(config, tmp_path / "run", build=lambda data: build(data, progress=False))
    recorded = read_config(tmp_path / "run").data
    assert recorded == settled(data) and (recorded.patch, recorded.patch_order) == (8, "z")
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--train.steps=2"]) == 0


def test_a_field_left_to_tokenizers_is_not_read_before_they_are(patches: Path) -> None:
    config = DataConfig(setting="transfusion", tokenizers=str(patches))
    with pytest.raises(ValueError, match=r"data.patch is left to the tokenizers in .*settled"):
        config.chosen("patch")
    assert settled(config).chosen("patch") == 8


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
