"""Log-mel frames, speech units, and the way back to something that can be heard."""

from __future__ import annotations

import numpy as np
import pytest

from mixture_of_mamba.data.bundle import DataBundle
from mixture_of_mamba.data.digits.voices import VOICES, Speaking, Voice
from mixture_of_mamba.modalities.speech.mel import HOP, MELS, SAMPLE_RATE, from_log_mel, log_mel
from mixture_of_mamba.modalities.speech.resampling import resample
from mixture_of_mamba.modalities.speech.units import SpeechUnitTokenizer, UnitOptions


def tone(hertz: float, seconds: float = 1.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, 10 * HOP])
def test_one_frame_every_twenty_milliseconds(samples: int) -> None:
    assert log_mel(np.ones(samples, np.float32)).shape == (max(1, -(-samples // HOP)), MELS)


def test_frames_do_not_depend_on_loudness() -> None:
    wave = tone(440) + 0.1 * np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    frames = log_mel(wave)
    np.testing.assert_allclose(log_mel(wave * 0.01), frames, atol=1e-4)
    np.testing.assert_allclose(log_mel((wave * 20_000).astype(np.int16)), frames, atol=1e-2)


def test_a_tone_comes_back_at_its_pitch() -> None:
    for hertz in (300.0, 1200.0):
        back = from_log_mel(log_mel(tone(hertz)))
        spectrum = np.abs(np.fft.rfft(back))
        peak = np.fft.rfftfreq(len(back), 1 / SAMPLE_RATE)[spectrum.argmax()]
        assert abs(peak - hertz) < 0.12 * hertz  # a mel band is about that wide


def test_resampling_keeps_pitch_and_length() -> None:
    back = resample(tone(440, rate=16_000), 16_000, SAMPLE_RATE)
    assert len(back) == SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(back))
    assert abs(float(spectrum.argmax()) - 440) <= 1


def test_no_frames_are_no_sound() -> None:
    assert from_log_mel(np.zeros((0, MELS), np.float32)).shape == (0,)


def test_silence_stays_silent() -> None:
    frames = log_mel(np.zeros(4 * HOP, np.float32))
    assert np.isfinite(frames).all()
    assert np.isfinite(from_log_mel(frames)).all()


def test_captions_are_spoken_the_same_every_time_and_by_several_voices() -> None:
    voices = [Voice(name, 250, 50) for name in VOICES]
    texts = ["a red three at the top left"] * len(VOICES)
    first, second = (Speaking(texts, voices, keep=len(VOICES)).result() for _ in range(2))
    for a, b in zip(first.waveforms, second.waveforms, strict=True):
        np.testing.assert_array_equal(a, b)
    for frames, wave in zip(first.items, first.waveforms, strict=True):
        assert 0.8 < len(wave) / SAMPLE_RATE < 3
        assert len(frames) == -(-len(wave) // HOP)
        assert np.abs(wave).max() > 3000
    assert len({wave.tobytes() for wave in first.waveforms}) == len(VOICES)


def test_a_failing_voice_is_reported() -> None:
    with pytest.raises(RuntimeError, match="no voice 'nobody'"):
        Speaking(["hello"], [Voice("nobody", 200, 50)]).result()


def test_units_keep_more_of_the_sound_than_its_average(spoken: DataBundle) -> None:
    """Decoded units are nearer to the utterance than the mean frame is, in log-mel."""
    units = spoken.tokenizers.non_text["speech"]
    for example in spoken.validation_examples[:5]:
        sound, _ = example.items["speech"]
        frames = log_mel(sound)
        ids = spoken.tokenizers.encode("speech", example.items["speech"])
        assert len(ids) == -(-len(frames) // 2)
        kept = units.centres[ids].reshape(-1, MELS)[: len(frames)]
        error = np.mean((kept - frames) ** 2) / np.var(frames, axis=0).mean()
        assert error < 0.75  # with 32 units; the default has 256
        wave, rate = spoken.tokenizers.decode("speech", ids)
        assert rate == SAMPLE_RATE and wave.dtype == np.float32
        assert abs(len(wave) - len(sound)) <= 2 * HOP
        assert 0.3 < np.abs(wave).max() <= 1


def test_units_outside_the_codebook_are_refused(spoken: DataBundle) -> None:
    end = spoken.tokenizers.end["speech"]
    with pytest.raises(ValueError, match="speech units lie in"):
        spoken.tokenizers.decode("speech", np.array([0, end]))


def test_too_little_speech_for_the_units_is_refused() -> None:
    frames = [np.zeros((6, MELS), np.float32)]
    with pytest.raises(ValueError, match="too little for 8 units"):
        SpeechUnitTokenizer.fit(frames, UnitOptions(units=8), seed=0, report=print)
