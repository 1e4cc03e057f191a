"""Sound to log-mel frames and back.

Frames are 20 ms apart at 22,050 Hz (espeak-ng's own rate, so that the embedded speech is never
resampled). Back to sound goes through the magnitudes of a finer grid and Griffin-Lim's phases.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = ["HOP", "LOUDNESS", "MELS", "SAMPLE_RATE", "from_log_mel", "log_mel"]

SAMPLE_RATE = 22_050
#: Samples between frames: 20 ms.
HOP = 441
#: Samples under a frame's window: 46 ms.
FFT = 1024
MELS = 40
#: Highest frequency of the mel scale, Hz.
TOP = 8_000.0
#: Magnitude below which everything is silence.
FLOOR = 1e-4
#: Root mean square that every utterance is brought to.
LOUDNESS = 0.1
#: Steps of the synthesis grid in one frame; the hop must be divisible by it.
FINE = 3
#: Rounds of Griffin-Lim.
ROUNDS = 40
#: Frames computed at once: 82 s, longer than any embedded utterance.
CHUNK = 4096


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Log-mel frames of one utterance, its loudness evened out; computed CHUNK frames at a time.

    Args:
        waveform: (samples,) at SAMPLE_RATE; floats in -1..1 or int16.

    Returns:
        (frames, MELS) float32; frames = ceil(samples / HOP), at least 1.
    """
    scale = _gain(waveform)
    frames = max(1, -(-len(waveform) // HOP))
    out = np.empty((frames, MELS), np.float32)
    lead = (FFT - HOP) // 2  # a frame's window is centred on its samples
    for first in range(0, frames, CHUNK):
        many = min(CHUNK, frames - first)
        padded = np.zeros((many - 1) * HOP + FFT, np.float32)
        begin = first * HOP - lead
        piece = waveform[max(begin, 0) : begin + len(padded)].astype(np.float32) * scale
        start = max(-begin, 0)
        padded[start : start + len(piece)] = piece
        windows = np.lib.stride_tricks.sliding_window_view(padded, FFT)[::HOP]
        magnitude = np.abs(np.fft.rfft(windows * _window(), axis=1)).astype(np.float32)
        out[first : first + many] = np.log(np.maximum(magnitude @ _filters().T, FLOOR))
    return out


def _gain(waveform: np.ndarray) -> np.float32:
    """What brings an utterance to LOUDNESS; 1 for silence."""
    total, step = 0.0, CHUNK * HOP
    for start in range(0, len(waveform), step):
        piece = waveform[start : start + step].astype(np.float32)
        total += float(np.square(piece, dtype=np.float64).sum())
    power = float(np.sqrt(total / len(waveform))) if len(waveform) else 0.0
    return np.float32(LOUDNESS / power) if power > 0 else np.float32(1)


def from_log_mel(frames: np.ndarray) -> np.ndarray:
    """Audible sound for log-mel frames, (frames * HOP,) float32 in -1..1 at SAMPLE_RATE."""
    count = len(frames)
    if count == 0:
        return np.zeros(0, np.float32)
    grid = (np.arange(count * FINE) + 0.5) / FINE - 0.5
    low = np.clip(np.floor(grid).astype(int), 0, max(count - 2, 0))
    part = np.clip(grid - low, 0, 1)[:, None].astype(np.float32)
    high = np.minimum(low + 1, count - 1)
    fine = frames[low] * (1 - part) + frames[high] * part
    magnitude = np.maximum(np.exp(fine) @ _inverse_filters().T, 0)
    wave = _griffin_lim(magnitude, HOP // FINE)[: count * HOP]
    peak = float(np.abs(wave).max())
    return (wave * (0.9 / peak) if peak > 0 else wave).astype(np.float32)


def _griffin_lim(magnitude: np.ndarray, hop: int, momentum: float = 0.99) -> np.ndarray:
    """Phases that agree with (frames, bins) magnitudes; accelerated Griffin-Lim."""
    frames = len(magnitude)
    rng = np.random.default_rng(0)
    phase = np.exp(2j * np.pi * rng.random(magnitude.shape)).astype(np.complex64)
    last = np.zeros_like(phase)
    for _ in range(ROUNDS):
        rebuilt = _spectrum(_overlap_add(magnitude * phase, hop), frames, hop)
        ahead = rebuilt + momentum * (rebuilt - last)
        last = rebuilt
        phase = ahead / np.maximum(np.abs(ahead), 1e-8)
    lead = (FFT - hop) // 2
    return _overlap_add(magnitude * phase, hop)[lead:]


def _spectrum(wave: np.ndarray, frames: int, hop: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(wave, FFT)[::hop][:frames]
    return np.fft.rfft(windows * _window(), axis=1)


def _overlap_add(spectrum: np.ndarray, hop: int) -> np.ndarray:
    pieces = np.fft.irfft(spectrum, FFT, axis=1).astype(np.float32) * _window()
    wave = np.zeros((len(pieces) - 1) * hop + FFT, np.float32)
    weight = np.zeros_like(wave)
    square = _window() ** 2
    for i, piece in enumerate(pieces):
        wave[i * hop : i * hop + FFT] += piece
        weight[i * hop : i * hop + FFT] += square
    return wave / np.maximum(weight, 1e-2)


@cache
def _window() -> np.ndarray:
    return np.hanning(FFT + 1)[:-1].astype(np.float32)


@cache
def _filters() -> np.ndarray:
    """(MELS, bins) triangles, evenly spaced on the mel scale, each of unit sum."""
    top = 2595 * np.log10(1 + TOP / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    triangles = np.maximum(0, np.minimum(rise, fall))
    triangles /= np.maximum(triangles.sum(1, keepdims=True), 1e-8)
    return triangles.astype(np.float32)


@cache
def _inverse_filters() -> np.ndarray:
    """(bins, MELS): a mel energy spread over its triangle."""
    filters = _filters()
    spread = filters.T / np.maximum(filters.sum(0)[:, None], 1e-8)
    return (spread * (filters.sum(0)[:, None] > 0)).astype(np.float32)
