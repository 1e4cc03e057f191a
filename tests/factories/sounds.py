"""Noise, and sound files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

__all__ = ["bad_sounds", "noise"]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def bad_sounds(folder: Path) -> dict[str, str]:
    """Files that cannot be used, and why."""
    wave = noise(3 * 16_000)
    soundfile.write(folder / "empty.wav", wave[:0], 16_000)
    soundfile.write(folder / "hertz.wav", wave[:1000], 1)
    soundfile.write(folder / "long.flac", np.zeros(16_000 * 3700, np.int16), 16_000)
    soundfile.write(folder / "nan.wav", np.append(wave, np.nan), 16_000, subtype="FLOAT")
    for suffix in ("wav", "aiff", "flac"):
        soundfile.write(folder / f"whole.{suffix}", wave, 16_000)
        data = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
    (folder / "other.wav").write_text("no sound")
    return {
        "empty.wav": "it is empty: it has a header but no samples",
        "hertz.wav": "its header says 1 samples a second; 4,000 to 768,000",
        "long.flac": r"it lasts 3,700 s, but at most 3,600 s are read \(data.max_seconds\)",
        "nan.wav": "it contains NaN or infinity",
        "cut.wav": "it breaks off: its header names 96000 bytes of sound, not",
        "cut.aiff": "it breaks off: its header names",
        "cut.flac": "lost sync|breaks off",
        "other.wav": "Format not recognised|unknown format",
        "nowhere.wav": "there is no such file",
    }
