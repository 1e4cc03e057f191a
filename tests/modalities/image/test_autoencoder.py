"""Latents of KL autoencoders: trained here, and any diffusers AutoencoderKL from a folder."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba.data.digits.handwriting import load_handwriting
from mixture_of_mamba.data.digits.scene import make_scenes
from mixture_of_mamba.modalities.image.autoencoder import AutoencoderCodec, AutoencoderOptions
from mixture_of_mamba.modalities.image.kl_network import train
from mixture_of_mamba.modalities.image.latent_networks import LatentNetwork
from tests.factories.data import prepare, tiny_config, with_data

SMALL = {"block_out_channels": (8,), "norm_num_groups": 4}


def fitted(folder: Path, patch: int) -> AutoencoderCodec:
    options = AutoencoderOptions(patch=patch, pretrained=str(folder))
    return AutoencoderCodec.fit(pictures(), options, seed=0, report=print)


def codec_of(network: Any, patch: int, mean: np.ndarray) -> AutoencoderCodec:
    options = AutoencoderOptions(patch=patch)
    return AutoencoderCodec(LatentNetwork(network), options, mean, np.ones_like(mean))


@cache
def pictures(count: int = 64) -> np.ndarray:
    scenes = make_scenes(count, load_handwriting(0)["train"], "train", 0)
    return np.stack([scene.image for scene in scenes])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny AutoencoderKL as diffusers saves it: RGB in, 4 channels at half the side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    net: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    path = tmp_path_factory.mktemp("autoencoder")
    net.save_pretrained(path)
    return path


def test_training_learns_to_rebuild_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixture_of_mamba.modalities.image.kl_network.BATCH", 12)
    monkeypatch.setattr("mixture_of_mamba.modalities.image.networks.WIDTH", 24)
    errors: dict[int, float] = {}
    net = train(pictures(), steps=60, seed=0, report=errors.__setitem__)
    assert errors[59] < 0.3 * errors[0]
    codec = AutoencoderCodec.measured(LatentNetwork(net), pictures(), AutoencoderOptions(patch=4))
    assert (codec.fixed_length, codec.size) == (64, 8)
    z = np.stack(codec.encode(pictures()))
    assert z.dtype == np.float32
    assert z.shape == (64, 64, 8)
    assert abs(z.mean()) < 1e-3
    assert abs(z.std() - 1) < 1e-3
    again = np.stack(codec.decode(z))
    assert again.dtype == np.uint8
    x = pictures() / 255.0
    assert np.mean((again / 255.0 - x) ** 2) < 0.7 * np.mean((x - x.mean((0, 1, 2))) ** 2)


def test_training_says_how_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixture_of_mamba.modalities.image.kl_network.BATCH", 2)
    monkeypatch.setattr("mixture_of_mamba.modalities.image.networks.WIDTH", 8)
    lines: list[str] = []
    options = AutoencoderOptions(steps=13)
    AutoencoderCodec.fit(pictures(8), options, seed=0, report=lines.append)
    steps = [line.partition(", ")[0] for line in lines[:-1]]
    assert steps == [f"image autoencoder: step {step} of 13" for step in range(0, 13, 2)]
    assert lines[-1] == "image autoencoder: 64 vectors of 8"


def test_a_trained_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixture_of_mamba.modalities.image.networks.WIDTH", 8)
    image = {"codec": "autoencoder", "steps": 2}
    digits = {"scenes": 20, "text_fraction": 0.0}
    config = tiny_config("transfusion", image=image, digits=digits, cache=str(tmp_path))
    one = prepare(config)
    monkeypatch.setattr(AutoencoderCodec, "fit", None)  # would raise if it were called
    other = prepare(with_data(config, window=128))
    assert one.tokenizers.options == other.tokenizers.options
    assert one.digests["image tokenizer"] == other.digests["image tokenizer"]


def test_training_is_decided_by_its_seed() -> None:
    first, again = (train(pictures(), steps=2, seed=3).state_dict() for _ in range(2))
    other = train(pictures(), steps=2, seed=4).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_any_diffusers_autoencoder_loads_from_its_folder(folder: Path) -> None:
    from diffusers import AutoencoderKL

    codec = fitted(folder, 4)
    assert (codec.fixed_length, codec.size) == (64, 4 * 2 * 2)  # 2x2 latents of 2 pixels each
    z = codec.encode(pictures())
    net: Any = AutoencoderKL.from_pretrained(folder).eval()
    with torch.no_grad():
        x = torch.from_numpy(pictures()[:1]).permute(0, 3, 1, 2).float() / 127.5 - 1
        raw = net.encode(x).latent_dist.mean[0]  # (4, 16, 16)
    token = z[0][9].reshape(2, 2, 4).transpose(2, 0, 1) * codec._std + codec._mean
    np.testing.assert_allclose(token, raw[:, 2:4, 2:4].numpy(), rtol=1e-4, atol=1e-5)


def test_what_was_saved_encodes_and_decodes_the_same(folder: Path, tmp_path: Path) -> None:
    codec = fitted(folder, 8)
    codec.save(tmp_path)
    loaded = AutoencoderCodec.load(tmp_path)
    z = codec.encode(pictures(8))
    assert loaded.options == replace(codec.options, pretrained=None)
    assert np.array_equal(z, loaded.encode(pictures(8)))
    assert np.array_equal(codec.decode(z), loaded.decode(z))


def test_runs_take_latents_of_a_folder(folder: Path) -> None:
    image = {"codec": "autoencoder", "pretrained": str(folder), "patch": 4}
    bundle = prepare(tiny_config("transfusion", image=image))
    assert bundle.tokenizers.modalities[1] == ("image", "continuous", 16)
    values = bundle.train.batch([0]).values["image"]
    assert values.shape[1] == 16
    assert abs(float(values.std()) - 1) < 0.3


def test_a_patch_must_fit_the_autoencoder(folder: Path) -> None:
    from diffusers import AutoencoderKL

    net: Any = AutoencoderKL.from_pretrained(folder)
    folded: Any = AutoencoderKL(in_channels=48, out_channels=48, **SMALL)
    with pytest.raises(ValueError, match=r"covers 4 pixels, .* divide the patch \(2 pixels\)"):
        codec_of(folded, 2, np.zeros(4))
    with pytest.raises(ValueError, match="the autoencoder has 4 latent channels"):
        codec_of(net, 4, np.zeros(3))


def test_wrong_shapes_are_named(folder: Path) -> None:
    codec = fitted(folder, 4)
    with pytest.raises(ValueError, match=r"images have shape \(2, 16, 16, 3\)"):
        codec.encode(np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"latents have shape \(2, 64, 4\)"):
        codec.decode(np.zeros((2, 64, 4), np.float32))


def test_bad_weights_are_named(folder: Path) -> None:
    from diffusers import AutoencoderKL

    net: Any = AutoencoderKL.from_pretrained(folder)
    torch.nn.init.constant_(net.encoder.conv_in.weight, float("nan"))
    with pytest.raises(ValueError, match="gives NaN or infinite latents; its weights are bad"):
        AutoencoderCodec.measured(LatentNetwork(net), pictures(4), AutoencoderOptions(patch=4))


def test_bad_folders_are_named(folder: Path, tmp_path: Path) -> None:
    def read(path: Path) -> None:
        fitted(path, 4)

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        read(empty)
    config = json.loads((folder / "config.json").read_text())
    (empty / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors weights"):
        read(empty)
    weights = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    (empty / "diffusion_pytorch_model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match="cannot be loaded"):
        read(empty)
    (empty / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    (empty / "config.json").write_text(json.dumps({**config, "latent_channels": 8}))
    with pytest.raises(ValueError, match="cannot be loaded"):
        read(empty)
    (empty / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(ValueError, match="holds a VQModel; image latents are made by one of"):
        read(empty)


def test_channels_must_be_folded_rgb() -> None:
    from diffusers import AutoencoderKL

    net: Any = AutoencoderKL(in_channels=4, out_channels=4, **SMALL)
    with pytest.raises(ValueError, match="4 input and 4 output channels"):
        codec_of(net, 4, np.zeros(4))


def test_a_folder_that_is_not_there_is_named() -> None:
    image = {"codec": "autoencoder", "pretrained": "vae"}
    with pytest.raises(FileNotFoundError, match=r"image\.pretrained: vae does not exist"):
        prepare(tiny_config("transfusion", image=image))


def test_diffusers_autoencoder_computes_what_latents_are_made_of(folder: Path) -> None:
    """The moments are the encoder's output, the mode is their mean, decoding reads latents as they
    are, and the divergence is that of two normal distributions."""
    from diffusers import AutoencoderKL

    net: Any = AutoencoderKL.from_pretrained(folder).eval()
    images = pictures(6)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        moments = net.quant_conv(net.encoder(x))
        mean, logarithm = moments.chunk(2, 1)
        found = net.encode(x).latent_dist
        torch.testing.assert_close(found.mode(), mean)
        torch.manual_seed(5)
        drawn = found.sample()
        torch.manual_seed(5)
        noise = torch.randn(mean.shape)
        torch.testing.assert_close(drawn, mean + torch.exp(0.5 * logarithm) * noise)
        normal = torch.distributions.Normal
        expected = torch.distributions.kl_divergence(
            normal(mean, torch.exp(0.5 * logarithm)), normal(0.0, 1.0)
        )
        torch.testing.assert_close(found.kl(), expected.sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
        rebuilt = net.decoder(net.post_quant_conv(mean))
        torch.testing.assert_close(net.decode(mean).sample, rebuilt)
    codec = AutoencoderCodec.measured(LatentNetwork(net), images, AutoencoderOptions(patch=8))
    wide = mean.double().numpy()
    scaled = (wide - wide.mean((0, 2, 3), keepdims=True)) / wide.std((0, 2, 3), keepdims=True)
    cells = 8 // 2  # the autoencoder halves the side
    n, _, side, _ = scaled.shape
    tokens = [
        scaled[:, :, row : row + cells, column : column + cells]
        .transpose(0, 2, 3, 1)
        .reshape(n, -1)
        for row in range(0, side, cells)
        for column in range(0, side, cells)
    ]
    np.testing.assert_allclose(codec.encode(images), np.stack(tokens, 1), rtol=2e-3, atol=2e-3)
    back = ((rebuilt.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack(codec.decode(codec.encode(images))).astype(float) - back).max() <= 1.0
