"""Sound files: the one reader and the one writer, for training, prompts, generation and reports."""

from __future__ import annotations

import io
import math
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import needs
from ...files import write_bytes
from ..input_checks import readable_file, reason
from ..media import MAX_SECONDS, Limits, Media
from .mel import SAMPLE_RATE, log_mel
from .resampling import resample, resampled, resampled_length

__all__ = ["NATIVE_SOUND", "RATES", "SOUND", "read_sound", "wav_bytes", "write_sound"]

#: Samples a second that a sound may have.
RATES = (4_000, 768_000)
#: Samples, of all channels together, that are decoded at once.
BLOCK = 1 << 18

# libsndfile's remark on a WAV or AIFF of another length than its header says.
_SIZES = re.compile(r"^\s*(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Lengths from here on are written by programs that do not know it yet.
_UNKNOWN = 0x7FF00000


def read_sound(
    path: str | Path, max_seconds: float = MAX_SECONDS, to: int | None = SAMPLE_RATE
) -> tuple[np.ndarray, int]:
    """A sound file as ((samples,) float32, samples a second); channels are averaged.

    Decoded and resampled in blocks: only the result, 88 kB a second, is held in memory.

    Args:
        to: samples a second of the result; None: those of the file.

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
            rate = file.samplerate if to is None else to
            out = np.empty(resampled_length(file.frames, file.samplerate, rate), np.float32)
            at = 0
            for piece in resampled(_blocks(file), file.samplerate, rate):
                out[at : at + len(piece)] = piece
                at += len(piece)
    except MemoryError:
        raise
    except Exception as error:  # libsndfile's errors, and what its binding makes of odd headers
        raise ValueError(f"audio {path} cannot be read ({reason(error)})") from error
    return out, rate


def write_sound(path: str | Path, sound: tuple[np.ndarray, int]) -> None:
    """Write (waveform in -1..1, samples a second); the suffix names the format, such as .wav."""
    with needs("writing sound", "train"):
        import soundfile
    path = Path(path)
    if path.suffix[1:].upper() not in soundfile.available_formats():
        raise ValueError(f"--out {path} names no sound format; end it in .wav")
    waveform, rate = sound
    made = io.BytesIO()  # soundfile's own errors do not say what the system said
    soundfile.write(made, np.clip(waveform, -1, 1), rate, format=path.suffix[1:].upper())
    write_bytes(path, made.getvalue())


def wav_bytes(waveform: np.ndarray, rate: int) -> bytes:
    """(samples,) in -1..1 as a mono 16-bit WAV file of `rate` samples a second."""
    samples = np.clip(np.nan_to_num(waveform), -1.0, 1.0) * 32767
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(int(rate))
        file.writeframes(samples.astype("<i2").tobytes())
    return buffer.getvalue()


class _SoundMedia(Media):
    """((samples,) in -1..1, samples a second); sound files."""

    name = "sound"
    suffixes = (".wav", ".flac", ".ogg", ".mp3")

    def __init__(self, rate: int | None) -> None:
        """rate: samples a second of what is read; None: those of the file."""
        self.rate = rate

    def read(self, path: str | Path, limits: Limits | None = None) -> tuple[np.ndarray, int]:
        return read_sound(path, (limits or Limits()).max_seconds, self.rate)

    def write(self, path: str | Path, item: tuple[np.ndarray, int]) -> None:
        write_sound(path, item)

    def check(self, item: Any, where: str) -> tuple[np.ndarray, int]:
        if not (isinstance(item, tuple) and len(item) == 2):
            raise ValueError(f"{where} is {type(item).__name__}; give (waveform, rate)")
        waveform, rate = np.asarray(item[0]), item[1]
        if waveform.ndim != 1 or not len(waveform) or rate <= 0:
            raise ValueError(
                f"{where} has shape {waveform.shape} and rate {rate}; give (samples,), not empty, "
                "and samples a second"
            )
        if not np.isfinite(waveform).all():
            raise ValueError(f"{where} contains NaN or infinity; every sample must be finite")
        return waveform, int(rate)

    def differences(
        self, item: tuple[np.ndarray, int], again: tuple[np.ndarray, int]
    ) -> dict[str, float]:
        """Mean absolute difference of log-mel frames, each sound brought to one loudness; frames
        that only one of them has do not count."""
        one, other = (log_mel(resample(wave, rate, SAMPLE_RATE)) for wave, rate in (item, again))
        frames = min(len(one), len(other))
        nepers = float(np.abs(one[:frames] - other[:frames]).mean())
        return {"log-mel error, dB": nepers * 20 / math.log(10)}

    def show(self, item: tuple[np.ndarray, int]) -> tuple[str, bytes]:
        return ".wav", wav_bytes(*item)

    def seconds(self, item: tuple[np.ndarray, int]) -> float:
        return len(item[0]) / item[1]

    def keep(self, item: tuple[np.ndarray, int]) -> tuple[np.ndarray, dict[str, Any]]:
        """As 16-bit samples."""
        waveform, rate = item
        return (np.clip(waveform, -1, 1) * 32767).astype(np.int16), {"sample_rate": rate}

    def kept(self, array: np.ndarray, facts: dict[str, Any]) -> tuple[np.ndarray, int]:
        return array.astype(np.float32) / 32767, facts["sample_rate"]


SOUND: Media = _SoundMedia(SAMPLE_RATE)
#: For codecs whose networks have rates of their own: resampled once, by `prepare`.
NATIVE_SOUND: Media = _SoundMedia(None)


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
