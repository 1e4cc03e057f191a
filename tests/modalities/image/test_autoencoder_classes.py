"""Latents of each class of autoencoders that diffusers has for images: the same as the network's
own, through training to a drawn picture; and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.modalities.image.autoencoder import AutoencoderCodec, AutoencoderOptions
from mixture_of_mamba.modalities.image.latent_networks import LatentNetwork
from tests.factories.autoencoders import NETWORKS, make, scaled_latents

SIDE = 64
EACH = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Of each network its folder and itself."""
    base = tmp_path_factory.mktemp("networks")
    return {name: (base / name, make(name, base / name)) for name in NETWORKS}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """(6, 64, 64, 3) uint8: smooth colours."""
    rng = np.random.default_rng(0)
    small = torch.from_numpy(rng.integers(0, 256, (6, 3, 5, 5))).float()
    large = torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bilinear")
    return large.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def fitted(folder: Path, images: np.ndarray, **given: Any) -> AutoencoderCodec:
    options = AutoencoderOptions(pretrained=str(folder), **{"size": SIDE, **given})
    return AutoencoderCodec.fit(images, options, seed=0, report=lambda line: None)


def tokens_of(latents: np.ndarray, cells: int) -> np.ndarray:
    """(n, c, h, w) as vectors of squares of cells, row by row, a cell's channels together."""
    n, _, height, width = latents.shape
    squares = [
        latents[:, :, row : row + cells, column : column + cells]
        .transpose(0, 2, 3, 1)
        .reshape(n, -1)
        for row in range(0, height, cells)
        for column in range(0, width, cells)
    ]
    return np.stack(squares, 1)


@EACH
@pytest.mark.parametrize("cells", [1, 2])
def test_latents_are_the_networks_own(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, name: str, cells: int
) -> None:
    folder, network = folders[name]
    _, _, cell, channels = NETWORKS[name]
    codec = fitted(folder, images, patch=cells * cell, scale="network")
    assert codec.size == channels * cells**2
    assert codec.fixed_length == (SIDE // (cells * cell)) ** 2
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    latents, drawn = scaled_latents(name, network, x)
    vectors = codec.encode(images)
    expected = tokens_of(latents.numpy(), cells)
    np.testing.assert_allclose(np.stack(vectors), expected, rtol=1e-4, atol=1e-4)
    pixels = ((drawn.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack(codec.decode(vectors)) - pixels).max() <= 1.0


@EACH
def test_measured_latents_have_unit_variance_and_are_the_same_one_at_a_time(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, name: str
) -> None:
    cell, channels = NETWORKS[name][2:]
    codec = fitted(folders[name][0], images, patch=cell)
    vectors = np.stack(codec.encode(images))
    flat = vectors.reshape(-1, channels)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-3)
    single = np.concatenate([codec.encode(image[None]) for image in images])
    np.testing.assert_allclose(vectors, single, rtol=1e-4, atol=1e-4)
    drawn = np.concatenate([codec.decode(one[None]) for one in vectors]).astype(int)
    assert np.abs(np.stack(codec.decode(vectors)) - drawn).max() <= 1


@EACH
def test_what_was_saved_is_the_same_codec(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, name: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(folders[name][0], tmp_path / "given")
    codec = fitted(copy, images, patch=64, scale="network", order="z")
    codec.save(tmp_path / "saved")
    shutil.rmtree(copy)
    loaded = AutoencoderCodec.load(tmp_path / "saved")
    assert loaded.options == replace(codec.options, pretrained=None)
    vectors = codec.encode(images)
    assert np.array_equal(loaded.encode(images), vectors)
    assert np.array_equal(loaded.decode(vectors), codec.decode(vectors))


def test_folders_of_version_0_1_load(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, tmp_path: Path
) -> None:
    """They record neither steps nor a choice of scales: all were measured."""
    codec = fitted(folders["kl4"][0], images, patch=8)
    codec.save(tmp_path)
    (tmp_path / "latents_scale.json").write_text('{"pixels": 64, "patch": 8, "order": "rows"}')
    loaded = AutoencoderCodec.load(tmp_path)
    assert loaded.options == AutoencoderOptions(size=SIDE, patch=8)
    assert np.array_equal(loaded.encode(images), codec.encode(images))


@pytest.fixture(scope="module")
def documents(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("documents")
    for i in range(8):
        Image.fromarray(images[i % 6] ^ np.uint8(i)).save(base / f"{i}.png")
        (base / f"{i}.txt").write_text(f"colours of kind {i}, in a square")
    return base


@EACH
def test_a_model_is_trained_on_them_and_draws(
    folders: dict[str, tuple[Path, Any]], documents: Path, name: str, tmp_path: Path
) -> None:
    cell = NETWORKS[name][2]
    scale = "measured" if name == "kl4" else "network"
    image = {"codec": "autoencoder", "pretrained": str(folders[name][0]), "scale": scale}
    config = {
        "modalities": {
            "text": {"codec": "bpe", "vocabulary": 280},
            "image": {**image, "size": SIDE, "patch": max(16, cell)},
        },
        "data": {"source": str(documents), "cache": str(tmp_path / "cache"), "window": 96},
        "model": {"d_model": 16, "n_layers": 1, "d_state": 4},
        "train": {"steps": 2, "batch_size": 2, "warmup": 1, "evaluate_every": 2, "log_every": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    run = tmp_path / "run"
    assert main(["train", "-c", str(tmp_path / "run.yaml"), "--out", str(run)]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last["losses"]) == {"text", "image"} and all(
        map(np.isfinite, last["losses"].values())
    )
    recorded = yaml.safe_load((run / "config.yaml").read_text())["modalities"]["image"]
    assert recorded["scale"] == scale
    shape = json.loads((run / "tokenizers" / "image" / "latents_scale.json").read_text())
    assert shape["scale"] == scale
    out = tmp_path / "drawn.png"
    command = ["generate", str(run), "--text", "colours", "--to", "image", "--out", str(out)]
    assert main(command) == 0
    assert Image.open(out).size == (SIDE, SIDE)


def broken(folder: Path, target: Path, **config: Any) -> Path:
    """A copy of a network's folder with another config; None takes a field away."""
    shutil.copytree(folder, target)
    found = {**json.loads((target / "config.json").read_text()), **config}
    kept = {key: value for key, value in found.items() if value is not None}
    (target / "config.json").write_text(json.dumps(kept))
    return target


def test_a_config_may_leave_out_what_its_class_knows(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, tmp_path: Path
) -> None:
    """Qwen-Image's, for one, was saved before its class had `input_channels`."""
    folder = broken(folders["qwen"][0], tmp_path / "a", input_channels=None)
    assert fitted(folder, images, patch=8).size == 4


@pytest.mark.parametrize("kind", ["AutoencoderRAE", "VQModel", "AutoencoderMine", None])
def test_other_classes_are_refused_before_anything_is_read(
    folders: dict[str, tuple[Path, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str | None,
) -> None:
    folder = broken(folders["tiny"][0], tmp_path / "other", _class_name=kind)
    config = {
        "text": {"codec": "bpe"},
        "image": {"codec": "autoencoder", "pretrained": str(folder)},
    }
    plain = {"modalities": config, "data": {"cache": str(tmp_path / "cache")}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    command = ["train", "-c", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert f"modalities.image: {folder} holds a {kind or 'network of no named class'};" in error
    assert all(name in error for name, *_ in NETWORKS.values())
    assert not (tmp_path / "cache").exists()


def test_a_class_that_this_diffusers_lacks_is_named(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(__version__="0.30.0"))
    with pytest.raises(ImportError, match=r"AutoencoderDC, which diffusers [\d.]+ does not have"):
        fitted(folders["dc"][0], images, patch=32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patch": 8}, "covers 32 pixels, which must divide the patch .8 pixels.*divides: 32, 64"),
        ({"size": 40, "patch": 32}, "size is 40, but patch is 32; give a size that is a multiple"),
        ({"patch": 3}, "patch is 3; choose 2, 4, 8, 16, 32 or 64 pixels"),
        ({"scale": "own"}, "scale is 'own'; choose from measured, network"),
        (
            {"scale": "network", "pretrained": None},
            "an autoencoder that is trained here has no",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    folders: dict[str, tuple[Path, Any]], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderOptions(**{"pretrained": str(folders["dc"][0]), **given}).check_files()


def test_a_pipeline_is_told_from_its_autoencoder(
    folders: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    shutil.copytree(folders["kl4"][0], tmp_path / "vae")
    options = AutoencoderOptions(pretrained=str(tmp_path), patch=8)
    with pytest.raises(ValueError, match=r"a whole pipeline; give its autoencoder: .*/vae"):
        options.check_files()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "kl-mean",
            {"latents_mean": [0.1, 0.2]},
            "has 4 latent channels, but a scale of 2 and 4",
        ),
        ("kl4", {"scaling_factor": 0.0}, "is not finite and positive"),
        ("qwen", {"latents_std": [1.0, -1.0, 1.0, 1.0]}, "is not finite and positive"),
        ("qwen", {"input_channels": 4}, "has 4 input and 4 output channels"),
        ("kl16", {"layers_per_block": 2}, r"the AutoencoderKL in .* \(its weights lack 64 tensors"),
        ("tiny", {"upsampling_scaling_factor": 1}, r"decodes \(1, 3, 16, 16\) as \(1, 3, 2, 2\)"),
    ],
)
def test_configs_that_contradict_the_network_are_named(
    folders: dict[str, tuple[Path, Any]],
    images: np.ndarray,
    tmp_path: Path,
    name: str,
    config: dict[str, Any],
    message: str,
) -> None:
    folder = broken(folders[name][0], tmp_path / "broken", **config)
    with pytest.raises(ValueError, match=message):
        fitted(folder, images, patch=8, scale="network")


def test_a_scale_of_squares_needs_an_even_number_of_latents(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="one of 2x2 latents, but an image has 5x5"):
        fitted(folders["flux2"][0], images[:, :40, :40], size=40, patch=8, scale="network")


@EACH
def test_latents_that_are_not_finite_are_refused(
    folders: dict[str, tuple[Path, Any]], images: np.ndarray, name: str
) -> None:
    cell, channels = NETWORKS[name][2:]
    codec = fitted(folders[name][0], images, patch=cell)
    vectors = np.stack(codec.encode(images[:1]))
    vectors[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="latents are NaN or infinite"):
        codec.decode(vectors)
    network = LatentNetwork(make_nan(folders[name][0], NETWORKS[name][0]))
    bad = AutoencoderCodec(network, codec.options, np.zeros(channels), np.ones(channels))
    with pytest.raises(ValueError, match="gives NaN or infinite latents"):
        bad.encode(images)


def make_nan(folder: Path, class_name: str) -> Any:
    import diffusers

    network = getattr(diffusers, class_name).from_pretrained(folder)
    torch.nn.init.constant_(next(network.encoder.parameters()), float("nan"))
    return network


def test_large_images_have_the_scale_of_fewer(
    folders: dict[str, tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents count, not images: those of 4,096 large ones would take hours."""
    seen: list[int] = []
    latents = AutoencoderCodec._latents

    def counted(codec: AutoencoderCodec, images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return latents(codec, images)

    monkeypatch.setattr(AutoencoderCodec, "_latents", counted)
    for name in ("LATENTS_MEASURED", "LEAST_MEASURED"):
        monkeypatch.setattr(f"mixture_of_mamba.modalities.image.autoencoder.{name}", 8)
    for side in (8, 16, 32):  # of 1, 4 and 16 latents
        images = np.zeros((32, side, side, 3), np.uint8)
        fitted(folders["kl4"][0], images, size=side, patch=8)
    assert seen == [8, 8, 8]
    monkeypatch.setattr("mixture_of_mamba.modalities.image.autoencoder.LEAST_MEASURED", 1)
    fitted(folders["kl4"][0], np.zeros((32, 16, 16, 3), np.uint8), size=16, patch=8)
    assert seen[-1] == 2
