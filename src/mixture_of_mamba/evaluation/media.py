"""Pictures and sound as files."""

from __future__ import annotations

import io
import textwrap
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import write_bytes
from ..modalities.image.files import read_image

__all__ = ["captioned_grid", "png_bytes", "save_png", "wav_bytes"]


def png_bytes(image: np.ndarray) -> bytes:
    """(h, w, 3) uint8 -> a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def wav_bytes(waveform: np.ndarray, rate: int) -> bytes:
    """(samples,) in -1..1 -> a mono 16-bit WAV file of `rate` samples a second."""
    samples = np.clip(np.nan_to_num(waveform), -1.0, 1.0) * 32767
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


def captioned_grid(rows: Sequence[tuple[str, Mapping[str, Path]]], scale: int = 3) -> np.ndarray:
    """Pictures under each other, one row for each caption.

    Args:
        rows: caption, and by column files of equally large pictures; the same columns in all rows.
        scale: pixels of the result for each pixel of a picture.

    Returns:
        (h, w, 3) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = list(rows[0][1])
    first = read_image(rows[0][1][columns[0]])
    height, width, gap, text = first.shape[0] * scale, first.shape[1] * scale, 8, 330
    font, head = ImageFont.load_default(15), 26
    size = (text + len(columns) * (width + gap) + gap, head + len(rows) * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        draw.text((text + j * (width + gap), 5), name, "black", font)
    for i, (caption, files) in enumerate(rows):
        y = head + i * (height + gap)
        draw.multiline_text((gap, y), "\n".join(textwrap.wrap(caption, 40)), "black", font)
        for j, name in enumerate(columns):
            picture = Image.fromarray(read_image(files[name]))
            larger = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(larger, (text + j * (width + gap), y))
    return np.asarray(sheet)


def save_png(path: Path, image: np.ndarray) -> None:
    write_bytes(path, png_bytes(image))
