"""Pictures and sound as files."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np

__all__ = ["png_bytes", "save_png", "save_wav", "wav_bytes"]


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


def save_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(png_bytes(image))


def save_wav(path: Path, waveform: np.ndarray, rate: int) -> None:
    path.write_bytes(wav_bytes(waveform, rate))
