"""Reading pictures: every mode by its own range, upright, over white; else refused by name."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixture_of_mamba.modalities.image.files import fit_image, read_image

RAMP = np.linspace(0, 65_535, 64).astype(np.uint16).reshape(8, 8)


def grey(values: np.ndarray, white: float) -> np.ndarray:
    """(h, w, 3) uint8 of grey values, in float64."""
    return np.repeat(np.round(values.astype(np.float64) * 255 / white)[..., None], 3, 2)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_its_range(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), grey(RAMP, 65_535))


def test_portable_greymaps_keep_their_own_white(tmp_path: Path) -> None:
    values = np.array([[0, 512, 1023]], np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1023\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "a.pgm"), grey(values, 1023))


def test_floats_are_scaled_from_0_to_1(tmp_path: Path) -> None:
    values = (RAMP / 65_535).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), grey(values, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP.astype(np.float32), r"values lie in 0\.\.65535, not in 0\.\.1"),
        (np.full((4, 4), np.nan, np.float32), "contains NaN"),
        (RAMP.astype(np.int32), "32-bit integers have no known range"),
    ],
)
def test_values_without_a_known_range_are_refused(
    tmp_path: Path, values: np.ndarray, message: str
) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif cannot be read \(its? .*{message}"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    """What lies under it does not show."""
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[..., :3] = 90
    pixels[0, :, 3], pixels[1, :, 3] = 255, 128
    if mode == "P":
        picture = Image.fromarray(np.repeat(np.arange(3, dtype=np.uint8), 4).reshape(3, 4), "P")
        picture.putpalette([90] * 9)
        picture.save(tmp_path / "a.png", transparency=bytes([255, 128, 0]))
    else:
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    alpha = np.array([255, 128, 0])[:, None, None] / 255
    wanted = np.broadcast_to(alpha * 90 + (1 - alpha) * 255, (3, 4, 3))
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), wanted, atol=1)


def png(bits: int, rows: list[bytes], width: int, key: tuple[int, ...]) -> bytes:
    """A PNG whose grey, or colour, `key` is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    colour = 0 if len(key) == 1 else 2
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    key_bytes = struct.pack(f">{len(key)}H", *key)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), chunk(b"tRNS", key_bytes), chunk(b"IDAT", body), chunk(b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("bits", "row", "wanted"),
    [
        (1, b"\x50", [0, 255, 0, 255]),
        (2, b"\x1b", [0, 255, 170, 255]),
        (4, b"\x12\x34", [255, 34, 51, 68]),
        (8, bytes([0, 1, 2, 3]), [0, 255, 2, 3]),
        (16, struct.pack(">4H", 0, 1, 0x8080, 0xFFFF), [0, 255, 128, 255]),
    ],
)
def test_a_transparent_grey_is_white_at_every_depth(
    tmp_path: Path, bits: int, row: bytes, wanted: list[int]
) -> None:
    (tmp_path / "a.png").write_bytes(png(bits, [row], 4, (1,)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0, :, 0], wanted)


def test_a_transparent_16_bit_colour_is_refused(tmp_path: Path) -> None:
    row = struct.pack(">3H", 256, 512, 768)
    (tmp_path / "a.png").write_bytes(png(16, [row], 1, (256, 512, 768)))
    with pytest.raises(ValueError, match="16-bit colours, one of them transparent"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "P", "RGB"])
def test_other_modes_become_their_colours(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "wide.png", "a.jpg"])
def test_pictures_stand_upright(tmp_path: Path, name: str) -> None:
    """EXIF orientation 6: the camera was held on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.zeros((16, 32), np.uint8)
    values[:, :8] = 255
    picture = values.astype(np.uint16) * 257 if name == "wide.png" else np.stack([values] * 3, 2)
    Image.fromarray(picture).save(tmp_path / name, exif=exif)
    wanted = np.rot90(np.stack([values] * 3, 2), -1)
    np.testing.assert_allclose(read_image(tmp_path / name), wanted, atol=8)  # JPEG loses a little


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_several_frames_are_refused_and_one_is_not(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), (80 * i, 0, 0)) for i in range(3)]
    frames[1].save(tmp_path / f"one.{suffix}")
    assert read_image(tmp_path / f"one.{suffix}").shape == (8, 8, 3)
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=rf"a\.{suffix} cannot be read \(it has several frames"):
        read_image(tmp_path / f"a.{suffix}")


def test_photographs_with_a_preview_give_the_photograph(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    frames[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.jpg").min() > 250


@pytest.mark.parametrize(
    ("size", "most", "message"),
    [
        ((9_000, 9_000), None, r"9000 x 9000 pixels, but at most 50,000,000 are read \(data.max_p"),
        ((20_000, 20_000), None, "exceeds limit"),
        ((10, 11), 109, "10 x 11 pixels, but at most 109"),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(
    tmp_path: Path, size: tuple[int, int], most: int | None, message: str
) -> None:
    Image.new("1", size).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "a.png", *([most] if most else []))


def test_names_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    eps = tmp_path / "a.eps"  # Pillow would run Ghostscript on it
    eps.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    os.mkfifo(tmp_path / "pipe")
    names: dict[Any, str] = {
        eps: "cannot identify image file",
        tmp_path / "pipe": "it is no file",
        tmp_path: "it is no file",
        "iVBORw0KGgo" * 50: "File name too long",
        "a\0b": "there is no such file",
    }
    for name, message in names.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            read_image(name)
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("size", [(50, 40), (41, 50), (7, 7)])
def test_the_middle_square_is_the_same_for_prompts_and_training(size: tuple[int, int]) -> None:
    """As Pillow fits an odd rest."""
    from PIL import ImageOps

    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    wanted = ImageOps.fit(Image.fromarray(picture), (32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(fit_image(picture, 32), np.asarray(wanted))
