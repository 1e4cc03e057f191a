"""Reads sound files: the one reader for training, prompts and evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import needs
from ..input_checks import readable_file, reason
from .mel import SAMPLE_RATE
from .resampling import resampled, resampled_length

__all__ = ["MAX_SECONDS", "RATES", "read_sound"]

MAX_SECONDS = 3600.0
"""Longest sound that is read; a longer one is refused by its header."""
RATES = (4_000, 768_000)
"""Samples a second that a sound may have."""
_SIZES = re.compile(r"^\s*(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
"""libsndfile's remark on a WAV or AIFF of another length than its header says."""
_UNKNOWN = 0x7FF00000
"""Lengths from here on are written by programs that do not know it yet."""
BLOCK = 1 << 18
"""Samples, of all channels together, that are decoded at once."""


def read_sound(path: str | Path, max_seconds: float = MAX_SECONDS) -> tuple[np.ndarray, int]:
    """A sound file as ((samples,) float32, SAMPLE_RATE); channels are averaged.

    Decoded and resampled in blocks: only the result, 88 kB a second, is held in memory.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no sound, is empty, damaged, longer than `max_seconds`, has a rate
            outside RATES, or contains NaN or infinity.
    """
    path = readable_file(path, "audio")
    with needs("reading sound files", "train"):
        import soundfile
    try:
        with soundfile.SoundFile(path) as file:
            _check(file, max_seconds)
            out = np.empty(resampled_length(file.frames, file.samplerate, SAMPLE_RATE), np.float32)
            at = 0
            for piece in resampled(_blocks(file), file.samplerate, SAMPLE_RATE):
                out[at : at + len(piece)] = piece
                at += len(piece)
    except MemoryError:
        raise
    except Exception as error:  # libsndfile's errors, and what its binding makes of odd headers
        raise ValueError(f"audio {path} cannot be read ({reason(error)})") from error
    return out, SAMPLE_RATE


def _check(file: Any, max_seconds: float) -> None:
    rate, frames = file.samplerate, file.frames
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(
            f"its header says {rate:,} samples a second; {RATES[0]:,} to {RATES[1]:,} are possible"
        )
    if not frames:
        raise ValueError("it is empty: it has a header but no samples")
    for named, there in _SIZES.findall(file.extra_info):
        if int(there) < int(named) < _UNKNOWN:
            raise ValueError(f"it breaks off: its header names {named} bytes of sound, not {there}")
    if frames > max_seconds * rate:
        raise ValueError(
            f"it lasts {frames / rate:,.0f} s, but at most {max_seconds:,.0f} s are read "
            "(data.max_seconds); divide it"
        )


def _blocks(file: Any) -> Iterator[np.ndarray]:
    """The channels' average, (n,) float32 a block."""
    most = max(1, BLOCK // file.channels)
    read = 0
    while read < file.frames:
        samples = file.read(most, dtype="float32", always_2d=True)
        if not len(samples):
            raise ValueError(
                f"it breaks off after {read / file.samplerate:.1f} s of the "
                f"{file.frames / file.samplerate:.1f} s that its header names"
            )
        mono = samples.mean(1)
        if not np.isfinite(mono).all():
            raise ValueError("it contains NaN or infinity")
        read += len(mono)
        yield mono
