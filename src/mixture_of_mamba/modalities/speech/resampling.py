"""Sound of one rate to another, block by block, and to whole numbers and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import gcd

import numpy as np

__all__ = ["resample", "resampled", "resampled_length", "to_float", "to_int16"]

#: Input samples that are filtered at once, about.
BLOCK = 1 << 18
#: Half the length of the filter, in periods of the lower rate (scipy's default).
REACH = 10


def resample(waveform: np.ndarray, rate: int, to: int) -> np.ndarray:
    """(samples,) at `rate` Hz to the same sound at `to` Hz, float32; ceil(samples * to / rate)."""
    if rate == to:
        return waveform.astype(np.float32)
    out = np.empty(resampled_length(len(waveform), rate, to), np.float32)
    at = 0
    blocks = (waveform[i : i + BLOCK] for i in range(0, len(waveform), BLOCK))
    for piece in resampled(blocks, rate, to):
        out[at : at + len(piece)] = piece
        at += len(piece)
    return out


def resampled_length(samples: int, rate: int, to: int) -> int:
    """Samples after resampling."""
    return -(-samples * to // rate)


def resampled(blocks: Iterable[np.ndarray], rate: int, to: int) -> Iterator[np.ndarray]:
    """The same for a sound in blocks of any size, in memory that does not grow with its length.

    Equal to `scipy.signal.resample_poly` of the whole: a block is filtered together with as much of
    its neighbours as the filter reaches, and only what has both neighbours is given out.
    """
    if rate == to:
        yield from (block.astype(np.float32) for block in blocks)
        return
    from scipy.signal import resample_poly

    up, down = to // gcd(rate, to), rate // gcd(rate, to)
    # multiples of `down`, so that pieces begin at whole samples of the output
    margin = down * (1 + (REACH * max(up, down) // up) // down + 1)
    step = down * max(1, BLOCK // down)
    held = np.zeros(0, np.float32)  # the input from `margin` before what comes next (at most)
    lead = 0  # samples of `held` that have been given out

    def filtered(until: int) -> np.ndarray:
        piece = resample_poly(held[: until + margin], up, down, window=_filter(up, down))
        begin = lead * up // down
        return np.asarray(piece[begin : begin + resampled_length(until - lead, down, up)])

    for block in blocks:
        held = np.concatenate([held, block.astype(np.float32)])
        while len(held) >= lead + step + margin:
            yield filtered(lead + step)
            drop = lead + step - min(lead + step, margin)
            lead = lead + step - drop
            held = held[drop:]
    if len(held) > lead:
        yield filtered(len(held))


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Floats in -1..1 to int16: as exact as most sound files, in half the memory of float32;
    float16 would have steps of 1 in 2,048 at full volume."""
    return np.round(np.clip(waveform, -1, 1) * 32767).astype(np.int16)


def to_float(samples: np.ndarray) -> np.ndarray:
    """What to_int16 made, as float32."""
    return samples.astype(np.float32) / 32767


@lru_cache(4)
def _filter(up: int, down: int) -> np.ndarray:
    """scipy's own choice: a low pass at the lower of both rates, under a Kaiser window."""
    from scipy.signal import firwin

    fastest = max(up, down)
    taps = firwin(2 * REACH * fastest + 1, 1 / fastest, window=("kaiser", 5.0))
    return np.asarray(taps, np.float32)
