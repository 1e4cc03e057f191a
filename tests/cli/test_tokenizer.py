"""`mom tokenizer`: trains what runs can reuse, describes folders, and says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.cli.options import Parser, add_run_options, run_config
from mixture_of_mamba.cli.tokenizer import reconstruction_error
from mixture_of_mamba.data.config import DataConfig
from mixture_of_mamba.modalities.image.autoencoder import AutoencoderCodec, AutoencoderOptions
from mixture_of_mamba.modalities.image.kl_network import train
from mixture_of_mamba.modalities.image.latent_networks import LatentNetwork
from mixture_of_mamba.modalities.image.patches import PatchOptions
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.training.config import ModelSettings, RunConfig, TrainConfig
from mixture_of_mamba.training.loop import train as train_run
from mixture_of_mamba.training.runs import read_config
from tests.factories.data import prepare, tiny_bundle, tiny_config
from tests.helpers.toy_codecs import ToyCodec

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
    data = replace(tiny_config("transfusion").data, tokenizers=str(out))
    bundle = prepare(RunConfig(data=data))
    assert bundle.tokenizers.modalities[1] == ("image", "continuous", 32)
    assert main(command) == 1
    assert "is there already and not empty" in capsys.readouterr().err


def test_pictures_are_prepared_before_they_are_encoded() -> None:
    class Negative(ToyCodec):
        @classmethod
        def prepare(cls, item: np.ndarray, options: object) -> np.ndarray:
            return 255 - item

        def decode(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [255 - item for item in tokens]

    pictures = [np.full((4, 4, 3), level, np.uint8) for level in (0, 200)]
    assert reconstruction_error(Negative("discrete", 9), pictures) == 0


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

    monkeypatch.setattr("mixture_of_mamba.modalities.image.kl_network.train", train)
    out = ["--out", str(tmp_path / "a"), "--data.cache", str(tmp_path)]
    assert main(["tokenizer", "train", *out, *OPTIONS, "--data.patch=2", "--data.window=512"]) == 1
    error = capsys.readouterr().err
    assert "covers 4 pixels, which must divide the patch (2 pixels)" in error


def patch_of(config: RunConfig) -> int:
    return int(config.modalities["image"].given["patch"])


def reused(setting: str, folder: Path, *more: str) -> RunConfig:
    """The run that such flags describe; files and presets go in `more`."""
    parser = Parser(prog="mom")
    add_run_options(parser)
    flags = [f"--data.setting={setting}", f"--data.tokenizers={folder}", "--data.window=512"]
    return run_config(parser.parse_args([*flags, *more]))


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokenizers with patches of 8 pixels in Z order."""
    folder = tmp_path_factory.mktemp("patches") / "a"
    image = {"patch": 8, "order": "z"}
    config = tiny_config("transfusion", image=image, digits={"text_fraction": 0.0})
    prepare(config).tokenizers.save(folder)
    return folder


@pytest.fixture(scope="module")
def cells(patches: Path) -> Path:
    """Tokenizers of a small autoencoder, whose vectors stand for 4 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    codec = AutoencoderCodec.measured(
        LatentNetwork(train(images, steps=1, seed=0)), images, AutoencoderOptions(patch=4)
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
    config = reused("transfusion", patches)
    image = config.modalities["image"]
    assert image.to_dict() == {"codec": "patches", "size": 32, "patch": 8, "order": "z"}
    text = TokenizerSet.load(patches).modalities[0][2]  # fewer than 384: the texts have no more
    assert config.modalities["text"].given["vocabulary"] == text
    flags = ["--modalities.image.patch=8", "--modalities.image.codec=patches"]
    assert reused("transfusion", patches, *flags) == config
    assert reused("transfusion", patches, "--data.patch=8", "--data.latents=patches") == config
    image = reused("transfusion", cells).modalities["image"]
    assert image.codec == "autoencoder"
    assert (image.given["patch"], image.given["order"]) == (4, "rows")
    found = reused("chameleon_speech", codes).modalities
    assert found["text"].given["vocabulary"] == 384
    assert (found["image"].given["codes"], found["speech"].given["units"]) == (32, 32)


def test_tokenizers_of_other_modalities_than_the_configs_are_refused(patches: Path) -> None:
    parser = Parser(prog="mom")
    add_run_options(parser)
    args = parser.parse_args(["-c", "chameleon", f"--data.tokenizers={patches}"])
    with pytest.raises(ValueError, match="but the config has discrete text, discrete image"):
        run_config(args)


def test_nothing_need_be_said_of_reused_tokenizers(patches: Path) -> None:
    parser = Parser(prog="mom")
    add_run_options(parser)
    config = run_config(parser.parse_args([f"--data.tokenizers={patches}"]))
    assert config.setting == "transfusion" and config.modalities["image"].given["patch"] == 8


def test_values_of_a_preset_are_not_the_users(patches: Path, cells: Path, tmp_path: Path) -> None:
    """configs/transfusion.yaml says patches of 8 pixels, for those who say nothing."""
    assert patch_of(reused("transfusion", cells, "-c", "transfusion")) == 4
    config = reused("transfusion", patches, "-c", "configs/transfusion.yaml")
    assert config.modalities["image"].given["order"] == "z"
    mine = tmp_path / "transfusion.yaml"  # a file of one's own under a preset's name
    mine.write_text("data: {setting: transfusion, patch: 8}")
    with pytest.raises(ValueError, match=r"modalities.image.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", str(mine))
    with pytest.raises(ValueError, match=r"modalities.image.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", "transfusion", "--data.patch=8")
    with pytest.raises(ValueError, match=r"modalities.image.patch is 8, but .* made with 4"):
        reused("transfusion", cells, "-c", "transfusion", "--data={patch: 8}")
    mine.write_text(f"data: {{tokenizers: {patches}}}")  # a file on top of the preset
    parser = Parser(prog="mom")
    add_run_options(parser)
    both = run_config(parser.parse_args(["-c", "transfusion", "-c", str(mine)]))
    assert both.modalities["image"].given == {"size": 32, "patch": 8, "order": "z"}
    nothing = ["--data.tokenizers=null", "--data.image_steps=1"]
    assert patch_of(reused("transfusion", cells, "-c", "transfusion", *nothing)) == 8


@pytest.mark.parametrize(
    ("setting", "flag", "words"),
    [
        (
            "transfusion",
            "--data.patch=2",
            "image.patch is 2, but the tokenizers in F were made wi",
        ),
        (
            "transfusion",
            "--data.patch_order=rows",
            "image.order is 'rows', but the toke",
        ),
        ("transfusion", "--data.latents=autoencoder", "image.codec is 'autoencoder', but the to"),
        ("autoencoder", "--data.latents=patches", "image.codec is 'patches', but the tokenizers"),
        ("autoencoder", "--data.latents=.", "image.pretrained is '.', but the tokenizers in F br"),
        ("transfusion", "--data.latents=.", "image.codec is 'autoencoder', but the tokenizers in"),
        ("transfusion", "--data.text_vocabulary=1024", "text.vocabulary is 1024, but the tok"),
        ("chameleon_speech", "--data.image_codes=512", "made with 32; give modalities.image.cod"),
        ("chameleon_speech", "--data.speech_units=256", "made with 32; give modalities.speech.u"),
        ("transfusion", "--modalities.image.patch=2", "image.patch is 2, but the tokenizers in"),
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


def test_a_run_from_python_records_them_too(patches: Path, tmp_path: Path) -> None:
    """So that the command line can resume it, which reads the tokenizers before it compares."""
    tiny = tiny_config("transfusion", digits={"text_fraction": 0.0}).data
    config = RunConfig(
        data=replace(tiny, tokenizers=str(patches), window=512),
        model=ModelSettings(d_model=16, n_layers=1),
        train=TrainConfig(steps=1, batch_size=2, samples=0, tensorboard=False, progress=False),
    )
    assert config.modalities == {}, "left to the tokenizers"
    train_run(config, tmp_path / "run", build=prepare)
    recorded = read_config(tmp_path / "run")
    assert recorded == config.resolved() and patch_of(recorded) == 8
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--train.steps=2"]) == 0


def test_a_codec_left_to_tokenizers_is_not_read_before_they_are(patches: Path) -> None:
    data = DataConfig(tokenizers=str(patches))
    config = RunConfig(modalities={"text": {}, "image": {"patch": 8}}, data=data)
    with pytest.raises(ValueError, match="left to reused tokenizers"):
        _ = config.modalities["image"].options
    assert config.resolved().modalities["image"].options == PatchOptions(patch=8, order="z")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "where to? give: mom tokenizer train --out FOLDER"),
        (["inspect"], "which folder? give: mom tokenizer inspect FOLDER"),
        (["inspect", "/nowhere"], "/nowhere holds no tokenizers"),
        (["train", "--out", "x", "--data.latents", "vae"], "image.pretrained: vae does not exist"),
        (["train", "--out", "x", "--data.patch", "3"], "image.patch is 3; choose 2, 4, 8, 16"),
    ],
)
def test_errors_are_one_clear_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokenizer", *arguments]) == 1
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
