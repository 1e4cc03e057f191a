"""Opens a user's pictures and sound files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mixture_of_mamba.data.sources.errors import DataError
from mixture_of_mamba.extras import needs

__all__ = ["read_audio", "read_image"]


def read_image(path: Path, size: int, where: str) -> np.ndarray:
    """The middle square of a picture, resized: (size, size, 3) uint8.

    Args:
        where: the document that names the file, for messages.

    Raises:
        DataError: the file is missing or is no picture.
    """
    with needs("reading pictures", "train"):
        from PIL import Image, ImageOps
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(where, f"image {path} cannot be read ({_reason(error)})") from error
    fitted = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted, np.uint8).copy()


def read_audio(path: Path, where: str) -> tuple[np.ndarray, int]:
    """A sound file's channels averaged: (samples,) float32 in -1..1, and samples a second.

    Raises:
        DataError: the file is missing, is no sound, or holds no samples.
    """
    with needs("reading sound files", "train"):
        import soundfile
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:  # soundfile's own error is a RuntimeError
        raise DataError(where, f"audio {path} cannot be read ({_reason(error)})") from error
    if not len(samples):
        raise DataError(where, f"audio {path} is empty: it has a header but no samples")
    if not np.isfinite(samples).all():
        raise DataError(where, f"audio {path} contains NaN or infinity")
    return samples.mean(1), int(rate)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__
