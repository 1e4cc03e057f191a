"""Writes pictures and sound; `data.image_files` and `data.sound_files` read them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..extras import needs
from ..files import replacing, write_bytes

__all__ = ["grid", "write_image", "write_sound"]


def grid(pictures: Sequence[np.ndarray], *, columns: int | None = None, gap: int = 2) -> np.ndarray:
    """(h, w, 3) uint8 pictures of one size, row by row, as one; by default about square."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    height, width = (side + gap for side in pictures[0].shape[:2])
    rows = math.ceil(len(pictures) / columns)
    sheet = np.full((rows * height - gap, columns * width - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height - gap, left : left + width - gap] = picture
    return sheet


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8; the suffix names the format, such as .png."""
    with needs("writing pictures", "train"):
        from PIL import Image
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {path} names no picture format; end it in .png")
    with replacing(path) as part:
        Image.fromarray(picture).save(part)


def write_sound(path: str | Path, sound: tuple[np.ndarray, int]) -> None:
    """Write (waveform in -1..1, samples a second); the suffix names the format, such as .wav."""
    with needs("writing sound", "train"):
        import soundfile
    path = Path(path)
    if path.suffix[1:].upper() not in soundfile.available_formats():
        raise ValueError(f"--out {path} names no sound format; end it in .wav")
    wave, rate = sound
    made = io.BytesIO()  # soundfile's own errors do not say what the system said
    soundfile.write(made, np.clip(wave, -1, 1), rate, format=path.suffix[1:].upper())
    write_bytes(path, made.getvalue())
