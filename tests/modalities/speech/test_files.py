"""Reading sound: in blocks, equal to the whole, within limits; else refused by name."""

from __future__ import annotations

import subprocess
import sys
from math import gcd
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from mixture_of_mamba.modalities.speech import files as sound_files
from mixture_of_mamba.modalities.speech import mel as sound
from mixture_of_mamba.modalities.speech import resampling, units
from mixture_of_mamba.modalities.speech.files import read_sound
from mixture_of_mamba.modalities.speech.mel import FFT, FLOOR, HOP, SAMPLE_RATE, log_mel
from mixture_of_mamba.modalities.speech.resampling import resample
from mixture_of_mamba.modalities.speech.units import SpeechUnitTokenizer
from tests.factories.sounds import bad_sounds, noise


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_049, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("samples", [1, 999, 30_011])
def test_blocks_are_resampled_as_the_whole(
    monkeypatch: pytest.MonkeyPatch, rate: int, samples: int
) -> None:
    monkeypatch.setattr(resampling, "BLOCK", 700)
    wave = noise(samples)
    shared = gcd(rate, SAMPLE_RATE)
    wanted = resample_poly(wave.astype(np.float64), SAMPLE_RATE // shared, rate // shared)
    found = resample(wave, rate, SAMPLE_RATE)
    assert found.shape == wanted.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_frames_in_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the formula in float64, for a sound of several chunks."""
    wave = noise(50 * HOP + 17)
    monkeypatch.setattr(sound, "CHUNK", 7)
    x = wave.astype(np.float64)
    x *= sound.LOUDNESS / np.sqrt(np.mean(x**2))
    lead = (FFT - HOP) // 2
    padded = np.concatenate([np.zeros(lead), x, np.zeros(2 * FFT)])
    rows = [padded[i * HOP : i * HOP + FFT] * np.hanning(FFT + 1)[:-1] for i in range(51)]
    mel = np.abs(np.fft.rfft(rows)) @ sound._filters().T.astype(np.float64)
    found = log_mel(wave)
    assert found.shape == (51, sound.MELS)
    np.testing.assert_allclose(found, np.log(np.maximum(mel, FLOOR)), atol=1e-4)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_file_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rate: int
) -> None:
    wave = np.stack([noise(rate), noise(rate, 1)], 1)
    soundfile.write(tmp_path / f"a.{suffix}", wave, rate)
    monkeypatch.setattr(sound_files, "BLOCK", 1000)
    decoded, _ = soundfile.read(tmp_path / f"a.{suffix}")
    found, there = read_sound(tmp_path / f"a.{suffix}")
    assert there == SAMPLE_RATE and len(found) == SAMPLE_RATE
    shared = gcd(rate, SAMPLE_RATE)
    wanted = resample_poly(decoded.mean(1), SAMPLE_RATE // shared, rate // shared)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_sounds_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    for name, message in bad_sounds(tmp_path).items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            read_sound(tmp_path / name)
        assert name in str(error.value)


def test_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    """As ffmpeg writes into a pipe: the header has the largest length that there is."""
    soundfile.write(tmp_path / "a.wav", noise(16_000), 16_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = data[4:8] = b"\xff" * 4
    (tmp_path / "pipe.wav").write_bytes(data)
    np.testing.assert_array_equal(
        read_sound(tmp_path / "pipe.wav")[0], read_sound(tmp_path / "a.wav")[0]
    )


def test_long_utterances_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((7, 80)).astype(np.float32)
    frames = [rng.standard_normal((n, 40)).astype(np.float32) for n in (1, 90, 333, 2, 64)]
    monkeypatch.setattr(units, "ROWS", 16)
    found = SpeechUnitTokenizer(centres).encode(frames)
    for utterance, ids in zip(frames, found, strict=True):
        odd = np.concatenate([utterance, utterance[-1:]]) if len(utterance) % 2 else utterance
        points = odd.reshape(-1, 80).astype(np.float64)
        distance = ((points[:, None] - centres.astype(np.float64)) ** 2).sum(-1)
        np.testing.assert_array_equal(ids, distance.argmin(1))


_PEAK = """
import resource, sys
import numpy, scipy.signal, soundfile
from mixture_of_mamba.modalities.speech.mel import log_mel
from mixture_of_mamba.modalities.speech.files import read_sound
from mixture_of_mamba.modalities.speech.units import SpeechUnitTokenizer
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
units = SpeechUnitTokenizer(numpy.zeros((256, 80), numpy.float32))
idle = peak()
ids = units.encode([log_mel(read_sound(sys.argv[1])[0])])[0]
assert len(ids) == 45_000
print(peak() - idle)
"""


@pytest.mark.slow
def test_half_an_hour_of_sound_needs_less_than_400_megabytes(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 44_100, 2) as file:
        for _ in range(180):
            file.write(np.stack([noise(441_000)] * 2, 1))
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "a.flac")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(said) < 400
