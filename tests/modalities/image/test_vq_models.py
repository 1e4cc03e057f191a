"""Codes of other people's VQ autoencoders, held against what their own libraries make of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixture_of_mamba.data.fingerprints import option_digests
from mixture_of_mamba.modalities import pretrained
from mixture_of_mamba.modalities.image.pixel_scale import UNIT, PixelScale
from mixture_of_mamba.modalities.image.vq_models import VQCodec, VQNetworkOptions
from mixture_of_mamba.modalities.image.vq_networks import VQNetwork
from mixture_of_mamba.modalities.registry import codec_class, options_of
from mixture_of_mamba.modalities.video import FrameCodec, FrameOptions
from mixture_of_mamba.modalities.video_files import Clip
from tests.factories.vq_networks import CODES, FACTOR, NETWORKS, save_model, save_network

CODECS = sorted(NETWORKS)
DRAWING = [codec for codec in CODECS if codec != "chameleon"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network of each codec."""
    base = tmp_path_factory.mktemp("networks")
    return {codec: save_network(codec, base / codec) for codec in CODECS}


@cache
def images(side: int = 32, count: int = 5) -> np.ndarray:
    """Noise on a slope."""
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 150, side)[:, None, None]
    return (slope + rng.integers(0, 106, (count, side, side, 3))).astype(np.uint8)


def options(codec: str, folder: Path, **given: Any) -> VQNetworkOptions:
    kind: Any = options_of(codec)
    return kind(pretrained=str(folder), **given)


def fitted(codec: str, folder: Path, size: int | None = 32) -> VQCodec:
    found: Any = codec_class(codec)
    return found.fit([], options(codec, folder, size=size), seed=0, report=lambda line: None)


def same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def reference_ids(codec: str, folder: Path, x: torch.Tensor) -> np.ndarray:
    """Codes of (n, 3, s, s) values as the library's own class gives them."""
    import diffusers
    import transformers

    n, _, height, width = x.shape
    with torch.inference_mode():
        if codec == "vqmodel":
            network: Any = diffusers.VQModel.from_pretrained(folder)
            found = network.quantize(network.encode(x).latents)[2][2]
        else:
            network = getattr(transformers, NETWORKS[codec]).from_pretrained(folder)
            sizes = {"image_sizes": [(height, width)] * n} if codec == "emu3" else {}
            found = network.encode(x, **sizes).image_tokens
            found = torch.stack(list(found))
    return found.reshape(n, -1).numpy()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("side", [32, 20])
def test_codes_are_those_of_the_library(codec: str, side: int, folders: dict[str, Path]) -> None:
    """Also of another size than the network was made for, and of images encoded together."""
    ours = fitted(codec, folders[codec], side)
    scale = ours.options.network.scale
    x = torch.from_numpy(np.stack([scale.to_network(image) for image in images(side)]))
    theirs = reference_ids(codec, folders[codec], x)
    assert ours.fixed_length == (side // FACTOR) ** 2 and ours.size == CODES + 1
    assert options(codec, folders[codec], size=side).fixed_length == ours.fixed_length
    codes = ours.encode(images(side))
    assert all(ids.dtype == np.int64 for ids in codes)
    assert same(codes, list(theirs))
    assert len(np.unique(codes)) > 5, "a codebook of which one code is used tells nothing"


@pytest.mark.parametrize("codec", DRAWING)
@pytest.mark.parametrize("side", [32, 20])
def test_images_are_those_of_the_library(codec: str, side: int, folders: dict[str, Path]) -> None:
    import diffusers
    import transformers

    ours, grid = fitted(codec, folders[codec], side), side // FACTOR
    codes = np.random.default_rng(1).integers(0, CODES, (3, grid * grid))
    ids, n = torch.from_numpy(codes), len(codes)
    with torch.inference_mode():
        if codec == "vqmodel":
            network: Any = diffusers.VQModel.from_pretrained(folders[codec])
            network.register_to_config(lookup_from_codebook=True)
            shape = (n, grid, grid, network.config.latent_channels)
            made = network.decode(ids.flatten(), force_not_quantize=True, shape=shape).sample
        elif codec == "janus":
            kind = transformers.JanusVQVAE
            config = kind.config_class.from_pretrained(folders[codec], num_patches=grid)
            made = kind.from_pretrained(folders[codec], config=config).decode(ids)
        else:
            network = transformers.Emu3VQVAE.from_pretrained(folders[codec])
            made = network.decode(ids.reshape(n, grid, grid))
    theirs = ((made * 0.5 + 0.5) * 255).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    found = np.stack(ours.decode(list(codes)))
    assert found.dtype == np.uint8 and found.shape == (n, side, side, 3)
    # a value in the middle between two levels may go to either
    assert np.abs(found.astype(float) - theirs).max() <= 1
    assert (found == theirs).mean() > 0.99


@pytest.mark.parametrize("codec", CODECS)
def test_neither_the_batch_nor_threads_decide(codec: str, folders: dict[str, Path]) -> None:
    ours = fitted(codec, folders[codec])
    together = ours.encode(images())
    assert same([ours.encode(images()[i : i + 1])[0] for i in range(len(images()))], together)
    assert not len(ours.encode(images()[:0]))
    torch.set_num_threads(3)
    try:
        assert same(ours.encode(images()), together)
        assert torch.get_num_threads() == 3
        if ours.cannot_decode is None:
            drawn = ours.decode(together)
            assert same([ours.decode([ids])[0] for ids in together], drawn)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_saved_stands_alone(codec: str, tmp_path: Path) -> None:
    """The folder of the network may go, and the codec's may be moved."""
    folder = save_network(codec, tmp_path / "network")
    processor = {"image_mean": [0.2, 0.4, 0.6], "image_std": [0.5, 0.25, 0.75]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    ours = fitted(codec, folder, 20)
    ours.save(tmp_path / "saved")
    folder.rename(tmp_path / "gone")
    codes = ours.encode(images(20))
    (tmp_path / "saved").rename(tmp_path / "moved")
    again: Any = codec_class(codec).load(tmp_path / "moved")
    assert same(again.encode(images(20)), codes)
    assert (again.size, again.fixed_length, again.options.size) == (CODES + 1, 25, 20)
    assert again.options == type(again.options)(size=20)
    if codec != "chameleon":
        assert same(again.decode(codes), ours.decode(codes))


@pytest.mark.parametrize("codec", ["janus", "emu3", "chameleon"])
@pytest.mark.parametrize(("head", "shards"), [(True, "50MB"), (False, "100KB")])
def test_a_network_is_found_inside_the_whole_model(
    codec: str, head: bool, shards: str, tmp_path: Path
) -> None:
    import transformers

    folder = save_model(codec, tmp_path / "model", head, max_shard_size=shards)
    files = len(list(folder.glob("*.safetensors")))
    assert files > 1 if shards == "100KB" else files == 1
    name = {"janus": "Janus", "emu3": "Emu3", "chameleon": "Chameleon"}[codec]
    kind = getattr(transformers, name + ("ForConditionalGeneration" if head else "Model"))
    model = kind.from_pretrained(folder)
    network = (model.model if head and hasattr(model, "model") else model).vqmodel
    network.save_pretrained(tmp_path / "alone")
    options(codec, folder, size=32).check_files()
    ours, alone = fitted(codec, folder), fitted(codec, tmp_path / "alone")
    assert same(ours.encode(images()), alone.encode(images()))
    again = ours._network().state_dict()
    assert all(torch.equal(again[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("codec", ["janus", "emu3", "chameleon"])
def test_values_are_those_of_the_saved_processor(
    codec: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """What transformers' own processor makes of a picture of the network's size."""
    import transformers

    name = {"janus": "Janus", "emu3": "Emu3", "chameleon": "Chameleon"}[codec]
    sizes: dict[str, Any] = {
        "janus": {"size": {"height": 32, "width": 32}},
        "emu3": {"do_resize": False},
        "chameleon": {
            "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32},
        },
    }  # fmt: skip
    processor = getattr(transformers, f"{name}ImageProcessor")(**sizes[codec])
    processor.save_pretrained(tmp_path)
    scale = PixelScale.of_folder(tmp_path, UNIT)
    from PIL import Image

    theirs = np.asarray(processor(Image.fromarray(images()[0]))["pixel_values"][0])
    assert np.abs(scale.to_network(images()[0]) - theirs).max() < 1e-5
    if codec == "chameleon":  # of the others the VQ networks were made with -1..1, see docs/data.md
        assert scale == options_of(codec).network.scale  # type: ignore[attr-defined]
    facts = _moved(folders[codec], tmp_path)
    assert options(codec, facts, size=32).fixed_length == 64


def _moved(network: Path, folder: Path) -> Path:
    for file in network.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_scale_goes_there_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    scales = [UNIT, options_of("chameleon").network.scale, PixelScale(1, (0, 1, 2), (1, 2, 3))]  # type: ignore[attr-defined]
    for scale in scales:
        assert np.array_equal(scale.to_pixels(scale.to_network(every)), every)
    wide = np.full((3, 2, 2), 9.0, np.float32)
    assert (UNIT.to_pixels(wide) == 255).all() and (UNIT.to_pixels(-wide) == 0).all()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, UNIT),
        ({"image_mean": 0.1}, PixelScale(1 / 255, (0.1,) * 3, (0.5,) * 3)),
        ({"do_normalize": False}, PixelScale(1 / 255, (0.0,) * 3, (1.0,) * 3)),
        ({"do_rescale": False, "rescale_factor": 0.1}, PixelScale(1.0, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_a_processor_is_read_by_its_switches(
    said: dict[str, Any], expected: PixelScale, tmp_path: Path
) -> None:
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": said}))
    assert PixelScale.of_folder(tmp_path, UNIT) == expected
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert PixelScale.of_folder(tmp_path, UNIT) == expected


@pytest.mark.parametrize("wrong", [{"image_std": [0, 1, 1]}, {"image_mean": [1, 2]}])
def test_a_processor_of_which_no_scale_is_made(wrong: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="says no scale of pixels"):
        PixelScale.of_folder(tmp_path, UNIT)


def test_the_networks_own_size(folders: dict[str, Path], tmp_path: Path) -> None:
    for codec in ("janus", "chameleon"):
        assert options(codec, folders[codec]).completed().size == 32
    for codec in ("emu3", "vqmodel"):
        with pytest.raises(
            ValueError, match=r"size is missing, and the files of this .* name none"
        ):
            options(codec, folders[codec]).check_files()
    folder = _moved(folders["janus"], tmp_path)
    processor = {"size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert options("janus", folder).completed().size == 24
    assert options("janus", folder).fixed_length == 36
    assert fitted("janus", folder, None).options.size == 24


def test_what_config_files_leave_out_is_the_librarys_default() -> None:
    import diffusers
    import transformers

    for codec in CODECS:
        network: VQNetwork = options_of(codec).network  # type: ignore[attr-defined]
        if codec == "vqmodel":
            signature = inspect.signature(diffusers.VQModel.__init__).parameters
            theirs = {name: signature[name].default for name in network.defaults}
        else:
            kind = getattr(transformers, network.name).config_class
            theirs = {name: getattr(kind(), name) for name in network.defaults}
            assert kind.model_type == network.model_type  # type: ignore[attr-defined]
            assert kind.base_config_key == "vq_config"
        assert {k: tuple(v) if isinstance(v, list) else v for k, v in theirs.items()} == dict(
            network.defaults
        )


def test_chameleon_only_encodes(folders: dict[str, Path]) -> None:
    ours = fitted("chameleon", folders["chameleon"])
    assert ours.cannot_decode is not None
    with pytest.raises(ValueError, match=r"ChameleonVQVAE has no decoder, .* choose another codec"):
        ours.decode(ours.encode(images()))


@pytest.mark.parametrize("codec", ["janus", "chameleon"])
def test_frames_of_a_video(codec: str, folders: dict[str, Path], tmp_path: Path) -> None:
    given = FrameOptions(image={"codec": codec, "pretrained": str(folders[codec])}, frames=2)
    given.check_files()
    known = given.completed()
    assert known.image["size"] == 32 and known.max_length == 2 * 65
    clip = FrameCodec.prepare(Clip(images(40, 2), 4.0), known)
    ours = FrameCodec.fit([clip], known, seed=0, report=lambda line: None)
    (ids,) = ours.encode([clip])
    assert ids.shape == (130,) and (ids[::65] == CODES).all()
    assert same(list(ids.reshape(2, 65)[:, 1:]), fitted(codec, folders[codec]).encode(clip))
    ours.save(tmp_path)
    again = FrameCodec.load(tmp_path)
    assert again.options == ours.options and again.options.image["pretrained"] is None
    if codec == "chameleon":
        with pytest.raises(ValueError, match=r"no video can be made .* ChameleonVQVAE has no dec"):
            again.decode([ids])
    else:
        assert again.decode([ids])[0].frames.shape == (2, 32, 32, 3)
    with pytest.raises(ValueError, match=r"image\.pretrained: .* a JanusVQVAE is needed"):
        FrameOptions(image={"codec": "janus", "pretrained": str(folders["emu3"])}).check_files()


def test_wrong_codes_and_images_are_refused(folders: dict[str, Path]) -> None:
    ours = fitted("janus", folders["janus"])
    with pytest.raises(ValueError, match=r"an image has 64 codes, but \(9,\) were given"):
        ours.decode([np.zeros(9, int)])
    with pytest.raises(ValueError, match=r"codes lie in 0..23, but 0..24 were given; the end"):
        ours.decode([np.append(np.zeros(63, int), CODES)])
    with pytest.raises(ValueError, match=r"is \(20, 20, 3\) uint8, but this janus codec is for"):
        ours.encode(images(20))


@pytest.mark.parametrize("codec", CODECS)
def test_damage_is_found_before_anything_is_trained(codec: str, tmp_path: Path) -> None:
    folder = save_network(codec, tmp_path / "network")
    good = options(codec, folder, size=32)
    good.check_files()
    (file,) = folder.glob("*.safetensors")
    whole = file.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=match) as caught:
            good.check_files()
        assert str(caught.value).startswith("pretrained: ")
        assert str(folder) in str(caught.value)

    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = next(key for key in tensors if "quant_conv" in key)
    save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    refused(f"its weights lack 1 tensors, such as {name}")
    save_file({**tensors, name: tensors[name] * float("nan")}, file, {"format": "pt"})
    refused(f"its weights {name} hold NaN")
    save_file({**tensors, name: torch.ones(7)}, file, {"format": "pt"})
    refused(f"{NETWORKS[codec]} in .* cannot be loaded")
    file.write_bytes(whole[: len(whole) // 2])
    refused(f"{NETWORKS[codec]} in .* cannot be loaded .*save it again with save_pretrained")
    file.unlink()
    refused(f"{NETWORKS[codec]} in .* cannot be loaded")
    file.write_bytes(whole)

    config = json.loads((folder / "config.json").read_text())
    field = options_of(codec).network.codes  # type: ignore[attr-defined]

    def configured(**changes: Any) -> None:
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    configured(in_channels=4)
    refused("images of 4 channels; one of 3")
    configured(**{field: "many"})
    refused(f"config.json is no config of a {NETWORKS[codec]}")
    configured(**{field: CODES + 1})
    refused(f"{NETWORKS[codec]} in .* cannot be loaded")
    configured(auto_map={"AutoModel": "modeling.Net"}, model_type="theirs")
    refused("needs code of its own folder")
    configured(auto_map={"AutoModel": "modeling.Net"}, model_type=["a"])
    refused(r"config\.json: model_type is \['a'\], which is no string; save the network again")
    (folder / "config.json").write_text("{")
    refused("config.json is not JSON")
    (folder / "config.json").unlink()
    refused("config.json is missing")


def test_layers_that_do_not_fit_together_are_found(tmp_path: Path) -> None:
    folder = save_network("janus", tmp_path / "doubled")
    import transformers

    kind = transformers.JanusVQVAE
    config = kind.config_class.from_pretrained(folder, double_latent=True)
    kind(config).save_pretrained(folder)  # transformers makes it, and cannot encode with it
    with pytest.raises(ValueError, match=r"JanusVQVAE in .* cannot be loaded .*channels"):
        options("janus", folder, size=32).check_files()


@pytest.mark.parametrize("codec", CODECS)
def test_another_class_is_refused(codec: str, folders: dict[str, Path], tmp_path: Path) -> None:
    other = "janus" if codec != "janus" else "emu3"
    expected = rf"pretrained: .* holds a {NETWORKS[other]}; a {NETWORKS[codec]} is needed"
    with pytest.raises(ValueError, match=expected):
        options(codec, folders[other], size=32).check_files()
    if codec != "vqmodel":
        whole = {"model_type": "llama", "vq_config": {}, "architectures": ["Other"]}
        (tmp_path / "config.json").write_text(json.dumps(whole))
        with pytest.raises(ValueError, match=f"holds a Other; a {NETWORKS[codec]} is needed"):
            options(codec, tmp_path, size=32).check_files()
    with pytest.raises(FileNotFoundError, match=r"pretrained: .*nothing does not exist"):
        options(codec, tmp_path / "nothing", size=32).check_files()
    with pytest.raises(ValueError, match="pretrained is missing"):
        options_of(codec)().check_files()


def test_a_network_of_the_hub(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody asks the hub before its files are needed; then they count as a folder's do."""
    given: Any = options_of("janus")(pretrained="somebody/janus")

    def away(hub_id: str, **_: Any) -> str:
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", away)
    assert given.fixed_length is None
    with pytest.raises(FileNotFoundError, match=r"pretrained: somebody/janus is no folder .* hf"):
        given.check_files()
    folder = _moved(folders["janus"], tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id, **_: str(folder))
    monkeypatch.setattr(pretrained, "_SNAPSHOTS", {})
    given.check_files()
    assert given.fixed_length == 64 and given.completed().size == 32
    before = option_digests(given)["pretrained"]
    assert set(before) == {"config.json", "model.safetensors"}
    (folder / "preprocessor_config.json").write_text("{}")
    assert option_digests(given)["pretrained"] != before


def test_wrong_sizes_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="size is 0"):
        options("janus", folders["janus"], size=0)
    with pytest.raises(ValueError, match=r"size is 30, but a code .* 4x4 .* multiple of 4"):
        options("janus", folders["janus"], size=30).check_files()
    assert options("janus", folders["janus"], size=30).fixed_length is None
