"""`mom tokenizer check`: the figures against their definitions, the page, and bad input."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.data.items import items_of_files
from mixture_of_mamba.evaluation.codec_check import check_codec
from mixture_of_mamba.evaluation.report.reconstructions import check_rows
from mixture_of_mamba.modalities.image.files import IMAGE, image_differences
from mixture_of_mamba.modalities.media import TEXT, Media
from mixture_of_mamba.modalities.speech.files import SOUND
from mixture_of_mamba.modalities.video import FrameCodec, FrameOptions
from tests.factories.clips import moving_square
from tests.factories.data import tiny_bundle
from tests.helpers.toy_codecs import ToyCodec, toy_tokenizers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained tokenizers of text, image and speech; and files/ of the same modalities."""
    folder = tmp_path_factory.mktemp("check")
    bundle = tiny_bundle()
    bundle.tokenizers.save(folder / "tokenizers")
    (folder / "files").mkdir()
    for i, example in enumerate(bundle.validation_examples[:3]):
        stem = folder / "files" / f"scene{i}"
        Image.fromarray(example.items["image"]).save(stem.with_suffix(".png"))
        soundfile.write(stem.with_suffix(".wav"), *example.items["speech"])
        stem.with_suffix(".txt").write_text(example.caption)
    return folder


def test_psnr_and_ssim_by_their_definitions() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (24, 20, 3), np.uint8)
    b = np.clip(a.astype(int) + rng.integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    found = image_differences(a, b)
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    assert found["PSNR, dB"] == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
    assert 0.9 < found["SSIM"] < 1
    same = image_differences(a, a)
    assert same["SSIM"] == pytest.approx(1) and same["PSNR, dB"] == 130
    black, white = np.zeros_like(a), np.full_like(a, 255)
    opposite = image_differences(black, white)
    assert opposite["PSNR, dB"] == pytest.approx(0, abs=1e-6)
    # constant images: SSIM is its luminance term, c1 / (1 + c1) with c1 = 0.01²
    assert opposite["SSIM"] == pytest.approx(1e-4 / (1 + 1e-4), rel=1e-3)


def test_mel_error_does_not_hear_loudness() -> None:
    t = np.arange(22_050) / 22_050
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    other = (0.5 * np.sin(2 * np.pi * 1500 * t)).astype(np.float32)

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return SOUND.differences((a, 22_050), (b, 22_050))["log-mel error, dB"]

    assert error(tone, tone / 4) == pytest.approx(0, abs=1e-2)
    assert error(tone, other) > 5
    # what only one of them has does not count, but for the edge that the shorter one has there
    assert error(tone, tone[:11_025]) < error(tone, other) / 3


def test_use_and_perplexity_of_ids() -> None:
    tokenizers = toy_tokenizers(6, code=ToyCodec("discrete", 9))
    items = [np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])]
    codec = tokenizers.codec("code")
    codec.media = ANYTHING
    found = check_codec(tokenizers, "code", items)
    assert found.used == (4, 8)  # the end token is no code
    assert found.perplexity == pytest.approx(4)
    assert (found.items, found.tokens) == (2, 8)
    skewed = check_codec(tokenizers, "code", [np.array([5, 5, 5, 7])])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert skewed.perplexity == pytest.approx(math.exp(entropy))


def test_codebooks_have_each_their_perplexity_and_markers_none() -> None:
    codec = ToyCodec("discrete", 10)
    codec.media = ANYTHING
    codec.cycle = ((8, 9), (0, 4), (0, 4), (4, 8))  # a marker, a codebook twice, another one
    items = [np.array([8, 0, 1, 4, 8, 2, 3, 4]), np.array([8, 0, 1, 4, 8, 2, 3, 5])]
    found = check_codec(toy_tokenizers(6, code=codec), "code", items)
    second = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found.used == (6, 8) and found.codebooks == 2
    assert found.perplexity == pytest.approx((4 + second) / 2)
    assert "mean of 2 codebooks" in str(check_rows(found))


class _ExactImages(ToyCodec):
    """Any pixels, each image under a number of its own."""

    def __init__(self) -> None:
        super().__init__("discrete", 257, 1)
        self.seen: list[np.ndarray] = []

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.seen += prepared
        return [np.array([i]) for i in range(len(self.seen) - len(prepared), len(self.seen))]

    def decode(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self.seen[int(ids[0])] for ids in tokens]


@pytest.mark.parametrize("longer", ["cut", "spread"])
@pytest.mark.parametrize("length", [3, 30])
def test_the_frames_of_a_clip_are_compared_that_the_codec_took(length: int, longer: str) -> None:
    options = FrameOptions(image={"codec": "vq", "size": 16}, longer=longer)
    codec = FrameCodec(options, _ExactImages())
    codec.options = options  # frames are prepared as of vq
    clip = moving_square(length, rate=10.0)
    found = check_codec(toy_tokenizers(6, video=codec), "video", [clip])
    assert found.differences["PSNR, dB"] == [130]
    frames = max(1, round(min(length / 10 * 4, 8)))
    assert found.used == (frames, 256) and found.perplexity == pytest.approx(frames)


class _AnyItems(Media):
    """A medium that takes whatever it is given."""

    name, suffixes = "anything", ()

    def read(self, path: object, limits: object = None) -> object:
        raise NotImplementedError

    def write(self, path: object, item: object) -> None:
        raise NotImplementedError

    def show(self, item: object) -> tuple[str, bytes]:
        raise NotImplementedError

    def check(self, item: object, where: str) -> object:
        return item


ANYTHING = _AnyItems()


def test_vectors_have_mean_and_deviation_and_no_codebook() -> None:
    tokenizers = toy_tokenizers(6, latent=ToyCodec("continuous", 2))
    tokenizers.codec("latent").media = ANYTHING
    vectors = np.array([[1, 3], [5, 7]], np.float32)
    found = check_codec(tokenizers, "latent", [vectors])
    assert (found.mean, found.deviation) == (4, pytest.approx(math.sqrt(5)))
    assert found.used is None and found.perplexity is None


def test_a_codec_that_cannot_decode_is_checked_one_way() -> None:
    codec = ToyCodec("discrete", 9)
    codec.media, codec.cannot_decode = ANYTHING, "it has no decoder"
    found = check_codec(toy_tokenizers(6, code=codec), "code", [np.array([1, 2])])
    assert found.one_way == "it has no decoder"
    assert found.decoded_per_second is None and found.again == [] and found.differences == {}


def test_the_command_on_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "out" / "check.html"
    page.parent.mkdir()
    command = ["tokenizer", "check", str(folder / "tokenizers"), str(folder / "files")]
    assert main([*command, "--out", str(page), "--count", "2"]) == 0
    said = capsys.readouterr().out
    assert (
        "image: vq, 2 items" in said and "PSNR" in said and "log-mel error" in said and "dB" in said
    )
    text = page.read_text()
    assert text.count("<img ") == 4 and text.count("<audio ") == 4
    assert "2 come back as they were and are not shown" in text  # the texts
    found = json.loads(page.with_suffix(".json").read_text())
    bundle = tiny_bundle()
    images = [e.items["image"] for e in bundle.validation_examples[:2]]
    codec = bundle.tokenizers.codec("image")
    again = [codec.decode(codec.encode([image]))[0] for image in images]
    wanted = [image_differences(a, b)["PSNR, dB"] for a, b in zip(images, again, strict=True)]
    assert found["image"]["differences"]["PSNR, dB"]["mean"] == pytest.approx(np.mean(wanted))
    assert found["text"]["differences"]["equal"]["mean"] == 1
    assert found["speech"]["size"] == 33 and found["speech"]["used"][1] == 32


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which folder? give: mom tokenizer check FOLDER [FILES]"),
        (["T"], "T is no run, whose data would be taken; give files"),
        (["T", "nowhere.png"], "nowhere.png: does not exist"),
        (["T", "files", "--out", "a.txt"], "--out a.txt names no page; end it in .html"),
        (["T", "files", "--count", "0"], "--count is 0; give at least 1"),
        (["/nowhere", "files"], "/nowhere holds no tokenizers"),
    ],
)
def test_errors_are_one_clear_line(
    folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"T": str(folder / "tokenizers"), "files": str(folder / "files")}
    assert main(["tokenizer", "check", *(places.get(a, a) for a in arguments)]) == 1
    said = capsys.readouterr().err.strip()
    assert words.replace("T is", f"{places['T']} is") in said and "\n" not in said


def test_files_of_no_modality_and_damaged_ones_are_named(folder: Path, tmp_path: Path) -> None:
    media = {"text": TEXT, "image": IMAGE}
    odd = tmp_path / "a.xyz"
    odd.write_text("?")
    with pytest.raises(ValueError, match=r"a\.xyz: is neither \.jsonl nor \.parquet"):
        items_of_files([odd], media, most=3)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG no more")
    with pytest.raises(ValueError, match=r"image .*bad\.png cannot be read"):
        items_of_files([bad], media, most=3)
    lines = tmp_path / "documents.jsonl"
    lines.write_text('[{"text": "a"}]\n[{"text": ""}]\n')
    with pytest.raises(ValueError, match=r"documents\.jsonl:2: segment 1"):
        items_of_files([lines], {"text": TEXT}, most=3)
