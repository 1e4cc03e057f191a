"""k-means over frames of speech, the same in every process, and units back to sound."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...extras import needs
from .mel import MELS, SAMPLE_RATE, from_log_mel

__all__ = ["centres_of", "nearest", "sampled", "sounds_of"]

#: Most rows that clusters are learnt from.
SAMPLE = 100_000
#: Rows whose distances are computed at once.
ROWS = 1 << 16


def sampled(count: int, seed: int) -> np.ndarray:
    """The order in which utterances are taken until they have SAMPLE rows, (count,)."""
    return np.random.default_rng([seed, 13]).permutation(count)


def centres_of(utterances: Iterable[np.ndarray], units: int, seed: int, rate: float) -> np.ndarray:
    """(units, width) float32 centres of utterances, (rows, width) each; those behind the first
    SAMPLE rows are not asked for.

    Args:
        rate: rows a second, for messages.

    Raises:
        ValueError: fewer rows than units.
    """
    with needs("the speech tokenizer", "train"):
        from sklearn.cluster import MiniBatchKMeans
        from threadpoolctl import threadpool_limits
    taken, total = [], 0
    for rows in utterances:
        taken.append(rows)
        total += len(rows)
        if total >= SAMPLE:
            break
    points = np.concatenate(taken)
    if len(points) < units:
        raise ValueError(
            f"the training speech lasts {len(points) / rate:.1f} s, too little for {units} "
            f"units; give more speech or at most {len(points)} units"
        )
    with threadpool_limits(1):  # sums in a fixed order, so that every process agrees
        machine = MiniBatchKMeans(
            units, batch_size=2048, n_init=1, max_iter=8, random_state=seed % 2**32
        ).fit(points)
    return np.ascontiguousarray(machine.cluster_centers_, np.float32)


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Of (n, width) points the (n,) int64 numbers of the centres that are nearest."""
    half = (centres**2).sum(1) / 2
    parts = [
        (half - points[start : start + ROWS] @ centres.T).argmin(1)
        for start in range(0, len(points), ROWS)
    ]
    return np.concatenate(parts).astype(np.int64)


def sounds_of(tokens: Iterable[np.ndarray], mels: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Sounds of unit sequences: (waveform float32 in -1..1, samples a second) each.

    Args:
        tokens: (n,) units each.
        mels: (units, frames * MELS), the log-mel frames that each unit is made into.

    Raises:
        ValueError: a unit that does not exist.
    """
    sounds = []
    for ids in map(np.asarray, tokens):
        if ids.size and (ids.min() < 0 or ids.max() >= len(mels)):
            raise ValueError(
                f"speech units lie in 0..{len(mels) - 1}, but {int(ids.min())}..{int(ids.max())} "
                "were given; the end token is no unit"
            )
        frames = mels[ids.astype(np.int64)].reshape(-1, MELS)
        sounds.append((from_log_mel(frames), SAMPLE_RATE))
    return sounds
