"""Runs and configs of version 0.1 are read, continued and sampled from.

tests/fixtures/old_runs.tar.gz has a run of each setting as version 0.1 wrote it, six steps long.
The weights of the image tokenizers and half the digits of the optimizers are zeros, for its size.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.cli.options import preset_path
from mixture_of_mamba.generation import Generator
from mixture_of_mamba.training.config import RunConfig
from mixture_of_mamba.training.metrics import read_metrics
from mixture_of_mamba.training.runs import load_run, read_config

RUNS = Path(__file__).parents[1] / "fixtures" / "old_runs.tar.gz"
SETTINGS = ["chameleon", "chameleon_speech", "transfusion"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(RUNS) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_old_run_is_loaded_and_generates(runs: Path, setting: str) -> None:
    run = load_run(runs / setting)
    assert run.config.setting == setting
    assert list(run.config.modalities) == list(run.model.config.names)
    image = {"codec": "vq", "size": 32, "codes": 16, "steps": 10}
    if setting == "transfusion":
        image = {"codec": "patches", "size": 32, "patch": 8, "order": "rows"}
    assert run.config.modalities["image"].to_dict() == image
    assert run.config.modalities["text"].given["vocabulary"] == 300
    assert run.config.train.max_grad_norm == 1.0
    assert run.config.data.digits.scenes == 40
    options: dict[str, Any] = {"steps": 2} if setting == "transfusion" else {}
    (picture,) = Generator.from_run(runs / setting).to_image(["a red three"], seed=0, **options)
    assert picture.shape == (32, 32, 3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_old_run_is_resumed(runs: Path, setting: str, tmp_path: Path) -> None:
    run, cache = runs / setting, ["--data.cache", str(tmp_path / "cache")]
    more = ["--train.steps", "8", "--train.device", "cpu", *cache]
    assert main(["train", "--out", str(run), "--resume", *more]) == 0
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["phase"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, 9))
    again = yaml.safe_load((run / "config.yaml").read_text())
    assert list(again) == ["modalities", "data", "model", "train"], "written in the new form"
    assert read_config(run).train.steps == 8
    assert load_run(run).config.setting == setting


CHAMELEON = """\
# Text and image tokens in one autoregressive model; half of all tokens is real text.
data:
  setting: chameleon
  scenes: 20000
  text_fraction: 0.5
  window: 256
model:
  d_model: 96
  n_layers: 6
  split: all
  vocabulary: shared
train:
  steps: 1500
  batch_size: 12
  learning_rate: 2.0e-3
  warmup: 100
  evaluate_every: 250
  log_every: 10
  checkpoint_every: 500
"""
SPEECH = CHAMELEON.replace("setting: chameleon", "setting: chameleon_speech")
DEMO = """\
data:
  setting: chameleon_speech
  scenes: 20000
  text_fraction: 0.5
  window: 256
model:
  d_model: 96
  n_layers: 6
  vocabulary: shared
train:
  steps: 1200
  batch_size: 12
  learning_rate: 2.0e-3
  warmup: 100
  evaluate_every: 40
  log_every: 10
  checkpoint_every: 600
  keep_checkpoints: 1
  samples: 0
  tensorboard: false
"""
TRANSFUSION = """\
data:
  setting: transfusion
  scenes: 80000  # four passes in 7,500 steps; of 20,000 it makes ten, and text overfits
  text_fraction: 0.25
  text_code: true
  caption_first: 0.8  # as Transfusion orders them
  window: 256
  latents: patches
  patch: 8
model:
  d_model: 96
  n_layers: 6
  split: all
  loss_weights: {image: 10.0}
  diffusion:
    prediction: sample  # a patch has more pixels (192) than the model has channels
    level_power: 0.5  # lean to noise, where the caption decides what is drawn
train:
  steps: 7500
  batch_size: 8
  learning_rate: 3.0e-3
  warmup: 200
  evaluate_every: 500
  log_every: 25
  checkpoint_every: 2500
"""


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("chameleon", CHAMELEON),
        ("chameleon_speech", SPEECH),
        ("demo", DEMO),
        ("transfusion", TRANSFUSION),
    ],
)
def test_the_presets_of_version_0_1_say_the_same(name: str, old: str) -> None:
    now = yaml.safe_load(preset_path(name).read_text())
    assert RunConfig.from_dict(yaml.safe_load(old)) == RunConfig.from_dict(now)


@pytest.mark.parametrize(
    ("latents", "codec", "pretrained"),
    [
        ("patches", "patches", None),
        ("autoencoder", "autoencoder", None),
        ("/a", "autoencoder", "/a"),
    ],
)
def test_latents_name_the_codec(latents: str, codec: str, pretrained: str | None) -> None:
    data = {"setting": "transfusion", "latents": latents, "patch": 8, "image_steps": 7}
    image = RunConfig.from_dict({"data": data}).modalities["image"]
    assert (image.codec, image.given["patch"]) == (codec, 8)
    assert image.given.get("pretrained") == pretrained
    assert image.given.get("steps") == (7 if codec == "autoencoder" else None)


def test_a_setting_and_other_modalities_contradict_each_other() -> None:
    plain = {"data": {"setting": "chameleon"}, "modalities": {"image": {"codec": "patches"}}}
    with pytest.raises(ValueError, match=r"modalities.image.codec, which is its new name"):
        RunConfig.from_dict(plain)
    plain = {"data": {"setting": "chameleon"}, "modalities": {"speech": {"codec": "units"}}}
    with pytest.raises(ValueError, match=r"gives data\.setting chameleon, which has no speech"):
        RunConfig.from_dict(plain)
    plain = {"data": {"image_codes": 8}, "modalities": {"image": {"codec": "vq", "codes": 9}}}
    with pytest.raises(ValueError, match="leave one of them out"):
        RunConfig.from_dict(plain)
