"""Speech as units: k-means clusters of log-mel frames, 25 a second, and back to sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ..codec import Codec
from ..options import CodecOptions, at_least
from .clusters import centres_of, nearest, sampled, sounds_of
from .files import SOUND
from .mel import MELS, SAMPLE_RATE, log_mel
from .resampling import resample

__all__ = ["SpeechUnitTokenizer", "UnitOptions"]

#: Log-mel frames (20 ms each) in one unit.
STACK = 2
#: Utterances encoded at once.
CHUNK = 128
#: Units encoded at once: 22 minutes.
ROWS = 1 << 15

_FILE = "units.safetensors"


@dataclass(frozen=True, kw_only=True)
class UnitOptions(CodecOptions):
    """Of `units`, clusters of log-mel frames."""

    units: int = 256
    """Number of speech units; 25 a second."""

    def __post_init__(self) -> None:
        at_least("units", self.units, 2)


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
        order = sampled(len(prepared), seed)
        centres = centres_of((_stack(prepared[i]) for i in order), options.units, seed, 25)
        report(f"speech units: {options.units} clusters of log-mel frames")
        return cls(centres)

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Unit ids of utterances given as log-mel frames; int64, (ceil(frames / STACK),) each."""
        out: list[np.ndarray] = []
        group: list[np.ndarray] = []
        for i, item in enumerate(prepared):
            group.append(_stack(item))
            if len(group) == CHUNK or sum(map(len, group)) >= ROWS or i == len(prepared) - 1:
                ids = nearest(np.concatenate(group), self.centres)
                out.extend(np.split(ids, np.cumsum([len(s) for s in group])[:-1]))
                group = []
        return out

    def decode(self, tokens: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Sounds of unit sequences: (waveform float32 in -1..1, samples a second) each.

        Raises:
            ValueError: a unit that does not exist.
        """
        return sounds_of(tokens, self.centres)

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
