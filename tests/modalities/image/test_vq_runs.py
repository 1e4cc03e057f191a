"""Runs on the codes of other people's networks: from the command line to files."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.digits.reader import SceneReader
from mixture_of_mamba.data.digits.scoring import score
from mixture_of_mamba.evaluation.artefacts import checkpoint_of
from mixture_of_mamba.evaluation.samples import save_samples
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.runs import load_run
from tests.factories.data import prepare
from tests.factories.vq_networks import NETWORKS, save_network

TRAIN = {
    "steps": 3,
    "batch_size": 2,
    "warmup": 1,
    "evaluate_every": 3,
    "evaluate_batches": 1,
    "samples": 1,
    "device": "cpu",
}


def written(file: Path, cache: Path, image: dict[str, Any], **data: Any) -> Path:
    """A config of 30 scenes with captions."""
    digits = {"scenes": 30, "text_fraction": 0.0}
    plain = {
        "modalities": {"text": {"codec": "bpe", "vocabulary": 300}, "image": image},
        "data": {"window": 128, "digits": digits, "cache": str(cache), **data},
        "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
        "train": TRAIN,
    }
    file.write_text(yaml.safe_dump(plain, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks under their codec's name, and a cache."""
    folder = tmp_path_factory.mktemp("vq-runs")
    for codec in NETWORKS:
        save_network(codec, folder / codec)
    return folder


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def run(request: pytest.FixtureRequest, base: Path) -> tuple[str, Path, str]:
    """A codec, the folder of a run that was trained with it, and what was said."""
    codec, out = request.param, base / f"run-{request.param}"
    image = {"codec": codec, "pretrained": str(base / codec), "size": 32}
    config = written(base / f"{codec}.yaml", base / "cache", image)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["train", "-c", str(config), "--out", str(out)]) == 0
    return codec, out, said.getvalue()


def test_a_trained_run_draws_into_files(
    run: tuple[str, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec, folder, said = run
    assert f"{NETWORKS[codec]}: 64 codes of 24 for an image of 32 pixels" in said
    command = ["generate", str(folder), "--text", "a red three at the top left", "--to", "image"]
    out = tmp_path / "made.png"
    if codec == "chameleon":
        assert main([*command, "--out", str(out)]) == 1
        assert "no image can be generated: transformers' ChameleonVQVAE has no decoder" in (
            capsys.readouterr().err
        )
        assert not out.exists()
        return
    assert main([*command, "--out", str(out)]) == 0
    assert Image.open(out).size == (32, 32)
    ids = Generator.from_run(folder).tokenizers.encode("image", np.asarray(Image.open(out)))
    assert ids.shape == (64,)


def test_a_picture_is_a_prompt(
    run: tuple[str, Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = run
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "a.png")
    prompt = ["generate", str(folder), "--image", str(tmp_path / "a.png")]
    assert main([*prompt, "--to", "text", "--max_tokens", "5"]) == 0
    assert main([*prompt, "--max_tokens", "80", "--out", str(tmp_path / "rest")]) == 0
    capsys.readouterr()


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    return SceneReader(seed=0)


def test_a_codec_that_only_encodes_is_sampled_and_judged_by_its_captions(
    run: tuple[str, Path, str], reader: SceneReader, tmp_path: Path
) -> None:
    codec, folder, said = run
    loaded = load_run(folder)
    generator = Generator(loaded.model, loaded.tokenizers)
    examples = prepare(loaded.config).validation_examples[:2]
    one_way = loaded.tokenizers.one_way
    entries = save_samples(
        generator, examples, tmp_path / "samples", checkpoint=checkpoint_of(folder)
    )
    names = loaded.tokenizers.names
    found = score(generator, examples, modalities=names, one_way=one_way, reader=reader)
    assert found["image_to_text"]["scene"]["total"] == 2
    assert all(set(entry["texts"]) == {"image"} for entry in entries)
    drawn = [file.suffix for file in (tmp_path / "samples").iterdir()].count(".png")
    if codec != "chameleon":
        assert not one_way and "left_out" not in found and drawn == 2
        assert found["text_to_image"]["scene"]["total"] == 2 and "ceiling" in found
        return
    assert drawn == 0 and not any(entry["items"] for entry in entries)
    assert found["left_out"] == {"text_to_image": one_way["image"]}
    assert "text_to_image" not in found and "ceiling" not in found
    assert said.count("no image samples: transformers' ChameleonVQVAE has no decoder") == 1


def test_tokenizers_are_reused_without_the_network(
    run: tuple[str, Path, str], tmp_path: Path
) -> None:
    codec, folder, _ = run
    moved = tmp_path / "tokenizers"
    shutil.copytree(folder / "tokenizers", moved)
    digits = {"scenes": 30, "text_fraction": 0.0}
    data = {"digits": digits, "cache": str(tmp_path / "cache"), "tokenizers": str(moved)}
    config = RunConfig.from_dict({"data": {**data, "window": 80}}).resolved()
    assert config.modalities["image"].to_dict() == {
        "codec": codec, "pretrained": None, "size": 32,
    }  # fmt: skip
    again = prepare(config).tokenizers
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    before = TokenizerSet.load(folder / "tokenizers")
    assert np.array_equal(again.encode("image", image), before.encode("image", image))
    # their options do not know how many codes an image has
    with pytest.raises(ValueError, match=r"window is 67, but an item of 'image' .* takes 68"):
        prepare(RunConfig.from_dict({"data": {**data, "window": 67}}))
    with pytest.raises(ValueError, match=r"image\.size is 16, but the tokenizers in .* with 32"):
        wrong = {"modalities": {"image": {"size": 16}}, "data": data}
        RunConfig.from_dict(wrong).resolved()


def test_a_run_goes_on_where_its_network_is_gone(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, moved, whole = tmp_path / "network", tmp_path / "moved", tmp_path / "whole"
    shutil.copytree(base / "janus", network)
    image = {"codec": "janus", "pretrained": str(network)}  # 32 pixels: they say it
    config = written(tmp_path / "config.yaml", tmp_path / "cache", image)
    assert main(["train", "-c", str(config), "--out", str(whole), "--train.samples", "0"]) == 0
    shutil.copytree(whole, run := tmp_path / "run")
    resume = ["train", "--resume", "--train.steps"]
    assert main([*resume, "4", "--out", str(whole)]) == 0
    network.rename(moved)
    capsys.readouterr()
    assert main([*resume, "4", "--out", str(run)]) == 0
    said = capsys.readouterr().err
    assert f"modalities.image.pretrained: {network} does not exist" in said
    assert f"the tokenizers in {run / 'tokenizers'} are used instead" in said
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, whole)]
    assert weights[0] == weights[1]
    page = tmp_path / "check.html"
    assert main(["tokenizer", "check", str(run), "--out", str(page), "--count", "1"]) == 0
    # a network that is named elsewhere is held against the run by what it does
    to = "--modalities.image.pretrained"
    other = save_network("janus", tmp_path / "other", embed_dim=6)
    capsys.readouterr()
    assert main([*resume, "5", "--out", str(run), to, str(other)]) == 1
    assert "was trained on other data: " in capsys.readouterr().err
    assert main([*resume, "5", "--out", str(run), to, str(moved)]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["modalities"]["image"] == {
        "codec": "janus", "pretrained": str(moved), "size": None,
    }  # fmt: skip
    # tokenizers beside the path of what they were made of: the error's own remedy works
    plain = yaml.safe_load((run / "config.yaml").read_text())
    plain["data"]["tokenizers"] = str(run / "tokenizers")
    with pytest.raises(ValueError, match=f"own; give {to} null, or leave out data.tokenizers"):
        RunConfig.from_dict(plain).resolved()
    plain["modalities"]["image"]["pretrained"] = "null"
    assert RunConfig.from_dict(plain).resolved().modalities["image"].given["size"] == 32


def test_tokenizer_train_says_what_is_encoded_only(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for codec in ("chameleon", "janus"):
        image = {"codec": codec, "pretrained": str(base / codec)}  # 32 pixels: they say it
        config = written(tmp_path / f"{codec}.yaml", base / "cache", image)
        command = ["tokenizer", "train", "-c", str(config), "--out", str(tmp_path / codec)]
        assert main(command) == 0
        said = capsys.readouterr()
        assert f"image: discrete, vocabulary 25, 64 an item, {codec}" in said.out
        assert ("mean squared error" in said.err) is (codec == "janus")
    assert TokenizerSet.load(tmp_path / "janus").codec("image").options.size == 32


@pytest.mark.parametrize(
    ("image", "data", "message"),
    [
        ({"pretrained": None}, {}, "modalities.image.pretrained is missing"),
        ({"pretrained": "nowhere"}, {}, "modalities.image.pretrained: nowhere does not exist"),
        ({"pretrained": "emu3"}, {}, "holds a Emu3VQVAE; a JanusVQVAE is needed"),
        ({"size": 30}, {}, "modalities.image.size is 30, but the embedded scenes are 32"),
        ({"size": 30}, {"source": "own"}, "modalities.image.size is 30, but a code of this Janus"),
        ({}, {"window": 60}, "window is 60, but an item of 'image'"),
        ({"codec": "emu3", "pretrained": "emu3"}, {}, "modalities.image.size is missing"),
        ({"pretrained": "cut"}, {}, "the JanusVQVAE in .*cut cannot be loaded"),
        ({"pretrained": "small"}, {}, "size is 16, but the embedded scenes are 32 pixels wide"),
    ],
)
def test_bad_input_is_said_before_anything_is_trained(
    image: dict[str, Any],
    data: dict[str, Any],
    message: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(base)
    if image.get("pretrained") == "cut" and not Path("cut").exists():
        shutil.copytree("janus", "cut")
        Path("cut/model.safetensors").write_bytes(b"\0" * 99)
    if image.get("pretrained") == "small" and not Path("small").exists():
        save_network("janus", Path("small"), num_patches=4)
    if "source" in data:
        own = tmp_path / "own.jsonl"
        own.write_text("".join(f'{{"text": "number {i}"}}\n' for i in range(9)))
        data = {**data, "source": str(own)}
    image = {"codec": "janus", "pretrained": "janus", **image}
    config = written(tmp_path / "wrong.yaml", tmp_path / "cache", image, **data)
    assert main(["train", "-c", str(config), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert re.search(message, said) and "preparing" not in said
