"""A tiny run with continuous images, from `mom train` to a picture; options that do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixture_of_mamba.cli.generate import without_effect
from mixture_of_mamba.cli.main import main
from mixture_of_mamba.modalities.speech.files import write_sound
from tests.factories.data import tiny_config
from tests.helpers.toy_codecs import ToyCodec, toy_tokenizers

SIDE = 32


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that the command line trained."""
    fields: dict[str, object] = {"modalities.image.codec": "patches", "modalities.speech": "null"}
    fields |= {"modalities.image.patch": 8, "modalities.text.vocabulary": 384}
    fields |= {"data.digits.scenes": 60, "data.digits.text_fraction": 0.1}
    fields |= {"data.validation_fraction": 0.2, "data.cache": tiny_config().data.cache}
    fields |= {"model.d_model": 16, "model.n_layers": 1}
    fields |= {"train.steps": 3, "train.warmup": 1, "train.batch_size": 2, "train.samples": 0}
    fields |= {"train.evaluate_batches": 1, "train.threads": 1, "train.tensorboard": "false"}
    folder = tmp_path_factory.mktemp("runs") / "a"
    flags = [f"--{name}={value}" for name, value in fields.items()]
    assert main(["train", "--out", str(folder), *flags]) == 0
    return folder


def generate(folder: Path, *flags: str) -> int:
    return main(["generate", str(folder), "--text", "a red three", *flags])


def test_a_trained_run_draws_a_picture(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "three.png"
    assert generate(run_folder, "--to", "image", "--steps", "3", "--out", str(out)) == 0
    assert capsys.readouterr().err == f"wrote {out}\n"
    picture = np.asarray(Image.open(out))
    assert picture.shape == (SIDE, SIDE, 3) and picture.dtype == np.uint8
    assert generate(run_folder, "--to", "image", "--steps", "3", "--count", "3",
                    "--seed", "4", "--sampler", "ddpm", "--out", str(out)) == 0  # fmt: skip
    assert np.asarray(Image.open(out)).shape == (2 * SIDE + 2, 2 * SIDE + 2, 3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "steps is 0; at least 1 denoising step is needed"),
        (["--steps", "1001"], "steps is 1001, but the model has 1000 noise levels"),
        (["--guidance", "-1"], "guidance is -1.0; give 0 or more"),
        (["--sampler", "euler"], "sampler is 'euler'; choose from auto, flow, ddim, ddpm"),
        (["--sampler", "flow"], "sampler 'flow' does not fit a model that predicts 'epsilon'"),
    ],
)
def test_bad_options_are_one_clear_line(
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    out = tmp_path / "a.png"
    assert generate(run_folder, "--to", "image", "--out", str(out), *flags) == 1
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1 and "Traceback" not in line
    assert not out.exists()


def test_a_run_without_speech_says_so_in_one_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sound(tmp_path / "a.wav", (np.zeros(8_000, np.float32), 16_000))
    for flags, words in (
        (["--to", "speech"], "this model has no modality 'speech'; it has text, image"),
        (["--speech", str(tmp_path / "a.wav"), "--to", "text"],
         "this model has no modality 'speech'; it has text, image"),
    ):  # fmt: skip
        assert generate(run_folder, *flags) == 1
        line = capsys.readouterr().err
        assert words in line and line.count("\n") == 1


def test_options_without_effect_are_named_in_one_line(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    for i, flags in enumerate(([], ["--temperature", "0.5", "--top_k", "3", "--max_tokens", "5"])):
        out = tmp_path / f"{i}.png"
        assert generate(run_folder, "--to", "image", "--steps", "2", "--out", str(out), *flags) == 0
        drawn.append(np.asarray(Image.open(out)))
    first, line, last = capsys.readouterr().err.splitlines()
    assert first.startswith("wrote ") and last.startswith("wrote ")
    assert line == (
        "mom generate: without effect: --temperature, --top_k (image is denoised as a whole; for "
        "tokens only); --max_tokens (every image has 16 tokens)"
    )
    assert np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("kind", "to", "given", "named"),
    [
        (
            "discrete",
            "text",
            ["greedy", "top_k", "seed", "max_tokens"],
            "--top_k (temperature is 0: the most likely token is taken; give --temperature 1); --s",
        ),
        (
            "discrete",
            "image",
            ["greedy", "count"],
            "--count (temperature is 0: the most likely token",
        ),
        ("discrete", None, ["greedy", "top_p", "min_p"], "--top_p, --min_p (temperature is 0"),
        ("discrete", "text", ["greedy", "repetition_penalty", "temperature", "guidance"], ""),
        ("continuous", None, ["greedy", "top_k", "count", "seed"], "--top_k (temperature is 0"),
        ("continuous", "image", ["greedy", "count", "seed"], ""),
        ("discrete", "text", ["top_k", "count", "seed"], ""),
        ("discrete", "image", ["steps", "sampler", "top_p"], "--steps, --sampler (image is made"),
        ("discrete", "image", ["max_tokens"], "--max_tokens (every image has 9 tokens)"),
        ("discrete", "text", ["steps"], "--steps (text is made of tokens here; for continuous"),
        ("discrete", None, ["steps"], "--steps (this run has only tokens; for continuous"),
        ("discrete", None, ["guidance"], "--guidance (it needs --to)"),
        ("discrete", "image", ["guidance", "temperature"], ""),
        ("discrete", "text", ["guidance", "max_tokens", "min_p"], ""),
        ("continuous", "text", ["sampler"], "--sampler (text is made of tokens"),
        ("continuous", "image", ["steps", "sampler", "guidance"], ""),
        ("continuous", None, ["steps", "temperature", "guidance", "max_tokens"], ""),
    ],
)
def test_what_has_an_effect(kind: str, to: str | None, given: list[str], named: str) -> None:
    tokenizers = toy_tokenizers(17, image=ToyCodec(kind, 8, 9))
    said = without_effect(tokenizers, to, given, greedy="greedy" in given)
    assert said.startswith(named)
    assert bool(said) == bool(named)
    assert ("--seed" in said) == ("seed" in given and "greedy" in given and kind == "discrete")
