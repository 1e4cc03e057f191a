"""Pictures and sound as files."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..extras import needs
from ..files import replacing, write_bytes

__all__ = ["fitted", "grid", "read_image", "read_sound", "write_image", "write_sound"]


def fitted(picture: np.ndarray, pixels: int) -> np.ndarray:
    """(h, w, 3) uint8, its middle square resized to (pixels, pixels, 3)."""
    height, width = picture.shape[:2]
    if (height, width) == (pixels, pixels):
        return picture
    with needs("resizing pictures", "train"):
        from PIL import Image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((pixels, pixels), Image.Resampling.LANCZOS))


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


def read_image(path: str | Path) -> np.ndarray:
    """A picture file as (h, w, 3) uint8.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no picture.
    """
    _exists(path, "picture")
    with needs("reading pictures", "train"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} is no picture that can be read: {error}") from error


def write_image(path: str | Path, picture: np.ndarray) -> None:
    """Write (h, w, 3) uint8; the suffix names the format, such as .png."""
    with needs("writing pictures", "train"):
        from PIL import Image
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {path} names no picture format; end it in .png")
    with replacing(path) as part:
        Image.fromarray(picture).save(part)


def read_sound(path: str | Path) -> tuple[np.ndarray, int]:
    """A sound file as ((samples,) float32 in -1..1, samples a second); channels are averaged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no sound.
    """
    _exists(path, "sound")
    with needs("reading sound", "train"):
        import soundfile
    try:
        wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise ValueError(f"{path} is no sound that can be read: {error}") from error
    return wave.mean(1), int(rate)


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


def _exists(path: str | Path, what: str) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no {what} file {path}")
