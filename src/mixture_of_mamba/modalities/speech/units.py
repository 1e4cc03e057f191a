"""Speech as units: k-means clusters of log-mel frames, 25 a second, and back to sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ...extras import needs
from ..codec import Codec
from ..options import UnitOptions
from .files import SOUND
from .mel import MELS, SAMPLE_RATE, from_log_mel, log_mel
from .resampling import resample

__all__ = ["SpeechUnitTokenizer"]

#: Log-mel frames (20 ms each) in one unit.
STACK = 2
#: Most units' worth of frames that the clusters are learnt from.
SAMPLE = 100_000
#: Utterances encoded at once.
CHUNK = 128
#: Units encoded at once: 22 minutes.
ROWS = 1 << 15

_FILE = "units.safetensors"


class SpeechUnitTokenizer(Codec):
    """Speech <-> unit ids; `size` counts the units and the end token.

    Args:
        centres: (units, STACK * MELS) float32 log-mel.
    """

    codec = "units"
    media = SOUND
    Options = UnitOptions
    kind = "discrete"
    fixed_length = None

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = centres
        self.options = UnitOptions(units=len(centres))
        self.size = len(centres) + 1

    @classmethod
    def prepare(cls, item: tuple[np.ndarray, int], options: UnitOptions) -> np.ndarray:
        """Log-mel frames, (frames, MELS) float16, of (waveform (samples,), samples a second)."""
        waveform, rate = item
        return log_mel(resample(waveform, rate, SAMPLE_RATE)).astype(np.float16)

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray],
        options: UnitOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> SpeechUnitTokenizer:
        """Clusters of utterances' log-mel frames."""
        with needs("the speech tokenizer", "train"):
            from sklearn.cluster import MiniBatchKMeans
            from threadpoolctl import threadpool_limits
        units = options.units
        rng = np.random.default_rng([seed, 13])
        stacked, total = [], 0
        for i in rng.permutation(len(prepared)):
            stacked.append(_stack(prepared[i]))
            total += len(stacked[-1])
            if total >= SAMPLE:
                break
        points = np.concatenate(stacked)
        if len(points) < units:
            raise ValueError(
                f"the training speech lasts {len(points) / 25:.1f} s, too little for {units} "
                f"units; give more speech or at most {len(points)} units"
            )
        with threadpool_limits(1):  # sums in a fixed order, so that every process agrees
            machine = MiniBatchKMeans(
                units, batch_size=2048, n_init=1, max_iter=8, random_state=seed % 2**32
            ).fit(points)
        report(f"speech units: {units} clusters of log-mel frames")
        return cls(np.ascontiguousarray(machine.cluster_centers_, np.float32))

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Unit ids of utterances given as log-mel frames; int64, (ceil(frames / STACK),) each."""
        out: list[np.ndarray] = []
        group: list[np.ndarray] = []
        for i, item in enumerate(prepared):
            group.append(_stack(item))
            if len(group) == CHUNK or sum(map(len, group)) >= ROWS or i == len(prepared) - 1:
                ids = self._nearest(np.concatenate(group))
                out.extend(np.split(ids, np.cumsum([len(s) for s in group])[:-1]))
                group = []
        return out

    def _nearest(self, points: np.ndarray) -> np.ndarray:
        """(n, STACK * MELS) to the (n,) int64 units whose centres are nearest."""
        half = (self.centres**2).sum(1) / 2
        parts = [
            (half - points[start : start + 2 * ROWS] @ self.centres.T).argmin(1)
            for start in range(0, len(points), 2 * ROWS)
        ]
        return np.concatenate(parts).astype(np.int64)

    def decode(self, tokens: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Sounds of unit sequences: (waveform float32 in -1..1, samples a second) each.

        Raises:
            ValueError: a unit that does not exist.
        """
        sounds = []
        for ids in map(np.asarray, tokens):
            if ids.size and (ids.min() < 0 or ids.max() >= len(self.centres)):
                raise ValueError(
                    f"speech units lie in 0..{len(self.centres) - 1}, but {int(ids.min())}.."
                    f"{int(ids.max())} were given; the end token is no unit"
                )
            frames = self.centres[ids.astype(np.int64)].reshape(-1, MELS)
            sounds.append((from_log_mel(frames), SAMPLE_RATE))
        return sounds

    def save(self, folder: Path) -> None:
        """Writes `units.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"centres": self.centres}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> SpeechUnitTokenizer:
        return cls(load_file(folder / _FILE)["centres"])


def _stack(frames: np.ndarray) -> np.ndarray:
    """(frames, MELS) to (ceil(frames / STACK), STACK * MELS) float32; the last frame repeats."""
    short = -len(frames) % STACK
    if short:
        frames = np.concatenate([frames, np.repeat(frames[-1:], short, 0)])
    return frames.reshape(-1, STACK * MELS).astype(np.float32)
