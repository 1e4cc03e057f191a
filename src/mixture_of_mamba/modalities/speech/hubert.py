"""Speech as units of a HuBERT: k-means clusters of its hidden states, and back to sound.

The network is somebody else's, the clusters are fitted to the training speech. Nothing in
transformers makes sound of them, so each unit keeps the mean log-mel frames of the places where the
training speech has it: what comes back can be understood at best, and does not sound good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import needs
from ..codec import Codec
from ..pretrained import (
    PretrainedOptions,
    class_of,
    config_of,
    load_transformers,
    loading,
    preprocessor_of,
    quiet,
)
from .clusters import centres_of, nearest, sampled, sounds_of
from .files import NATIVE_SOUND
from .mel import HOP, MELS, SAMPLE_RATE, log_mel
from .resampling import resample, to_float, to_int16

__all__ = ["HubertCodec", "HubertOptions"]

#: Samples a second that every HuBERT hears.
RATE = 16_000
#: Samples between its frames: 20 ms, as between log-mel frames.
FRAME = RATE * HOP // SAMPLE_RATE

#: Frames that the network hears at once, 30 s; its memory grows with the square of their number.
PIECE = 1500

_META, _FIT, _NETWORK = "hubert.json", "hubert.safetensors", "network"


@dataclass(frozen=True, kw_only=True)
class HubertOptions(PretrainedOptions):
    """Of `hubert`, clusters of a HubertModel's hidden states."""

    units: int = 500
    """Number of speech units."""

    layer: int = -1
    """Whose hidden states are clustered, as transformers counts them: 0 is what the first layer
    gets, 1 what it gives, -1 what the last one gives."""

    stride: int = 2
    """Frames of 20 ms whose hidden states are averaged for one unit: 2 gives 25 units a second, 1
    the network's own 50."""

    def __post_init__(self) -> None:
        for name, least in (("units", 2), ("stride", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")

    def check_files(self) -> None:
        with needs("a HuBERT", "train"):
            from transformers import HubertModel
        with self.reading() as folder:
            layers = _layers(folder)
            _normalizes(folder)
            load_transformers(HubertModel, folder)
        if not -layers - 1 <= self.layer <= layers:
            raise ValueError(
                f"layer is {self.layer}, but the HubertModel has {layers} layers; choose 0 to "
                f"{layers}, or -1 for the last"
            )


class HubertCodec(Codec):
    """Speech <-> unit ids; `size` counts the units and the end token.

    Args:
        folder: of the HubertModel; it is loaded from there when it is first needed.
        normalizes: whether it hears utterances of zero mean and unit variance.
        centres: (units, width) float32 hidden states.
        mels: (units, stride * MELS) float32, the log-mel frames that each unit is made into.
    """

    codec = "hubert"
    media = NATIVE_SOUND
    Options = HubertOptions
    kind = "discrete"
    fixed_length = None
    version = 1

    def __init__(
        self,
        options: HubertOptions,
        folder: Path,
        normalizes: bool,
        centres: np.ndarray,
        mels: np.ndarray,
    ) -> None:
        self.options = replace(options, pretrained=None)
        self._folder, self._normalizes = folder, normalizes
        self._loaded: Any = None
        self.centres, self.mels = centres, mels
        self.size = options.units + 1

    @classmethod
    def prepare(cls, item: tuple[np.ndarray, int], options: HubertOptions) -> np.ndarray:
        """(samples,) int16 at 16 kHz, of (waveform (samples,), samples a second)."""
        waveform, rate = item
        return to_int16(resample(waveform, rate, RATE))

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray],
        options: HubertOptions,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> HubertCodec:
        """Clusters of the hidden states of utterances, and what each sounds like."""
        folder = options.folder
        normalizes = _normalizes(folder)
        none = np.zeros((0, 0), np.float32)
        codec = cls(options, folder, normalizes, none, none)
        heard: list[tuple[np.ndarray, np.ndarray]] = []

        def states() -> Any:
            for i in sampled(len(prepared), seed):
                rows = codec._states(prepared[i])
                heard.append((rows, _frames(prepared[i], options.stride)))
                yield rows

        centres = centres_of(states(), options.units, seed, RATE / (FRAME * options.stride))
        mels = _mean_frames([(nearest(rows, centres), mel) for rows, mel in heard], centres)
        report(f"HuBERT units: {options.units} clusters of hidden states {options.layer}")
        return cls(options, folder, normalizes, centres, mels)

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each (samples,) int16 its units, int64: one for every `stride` frames of 20 ms.

        Each is heard by itself: the network looks at whole utterances, so that it would hear the
        padding of a batch.
        """
        return [nearest(self._states(item), self.centres) for item in prepared]

    def _states(self, samples: np.ndarray) -> np.ndarray:
        """(units, width) float32: hidden states averaged over `stride` frames; the last over what
        there is."""
        import torch

        from ..threads import one_thread

        waveform = to_float(samples)
        if self._normalizes:  # as Wav2Vec2FeatureExtractor does
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        frames = max(1, -(-len(waveform) // FRAME))
        beyond = _beyond(self._network.config)
        heard = torch.zeros(frames * FRAME + beyond)
        heard[: len(waveform)] = torch.from_numpy(waveform)
        found = []
        with one_thread(), torch.inference_mode():
            for start in range(0, frames, PIECE):
                end = min(start + PIECE, frames) * FRAME + beyond
                piece = heard[None, start * FRAME : end]
                states = self._network(piece, output_hidden_states=True).hidden_states
                found.append(states[self.options.layer][0].float().numpy())
        states = np.concatenate(found)
        starts = np.arange(0, len(states), self.options.stride)
        lengths = np.diff(np.append(starts, len(states)))
        return np.asarray(np.add.reduceat(states, starts) / lengths[:, None], np.float32)

    def decode(self, tokens: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Sounds of unit sequences: (waveform float32 in -1..1, samples a second) each.

        Raises:
            ValueError: a unit that does not exist.
        """
        return sounds_of(tokens, self.mels)

    def save(self, folder: Path) -> None:
        """Writes `network/` as transformers does, `hubert.safetensors` and `hubert.json`."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            self._network.save_pretrained(folder / _NETWORK)
        heard = {"do_normalize": self._normalizes, "sampling_rate": RATE}
        (folder / _NETWORK / "preprocessor_config.json").write_text(json.dumps(heard))
        save_file({"centres": self.centres, "mels": self.mels}, folder / _FIT)
        (folder / _META).write_text(json.dumps(asdict(self.options)))

    @classmethod
    def load(cls, folder: Path) -> HubertCodec:
        from safetensors.numpy import load_file

        options = HubertOptions(**json.loads((folder / _META).read_text()))
        fit = load_file(folder / _FIT)
        normalizes = _normalizes(folder / _NETWORK)
        return cls(options, folder / _NETWORK, normalizes, fit["centres"], fit["mels"])

    @property
    def _network(self) -> Any:
        if self._loaded is None:
            with needs("a HuBERT", "train"):
                from transformers import HubertModel
            self._loaded = load_transformers(HubertModel, self._folder)
        return self._loaded


def _layers(folder: Path) -> int:
    """Of a folder's HubertModel.

    Raises:
        FileNotFoundError, ValueError: it holds none, or one whose frames are not 20 ms apart.
    """
    config = config_of(folder)
    if config.get("model_type") != "hubert":
        raise ValueError(
            f"{folder} holds a {class_of(config)}, but this codec is for HubertModel; give "
            "another folder"
        )
    with needs("a HuBERT", "train"):
        from transformers import HubertConfig
    with loading(folder, "HubertModel"):
        made = HubertConfig.from_dict(config)
        if made.inputs_to_logits_ratio != FRAME:
            raise ValueError(
                f"its frames are {made.inputs_to_logits_ratio} samples apart, {FRAME} are needed"
            )
    return int(made.num_hidden_layers)


def _normalizes(folder: Path) -> bool:
    """What the feature extractor of a folder says; without one, its class's own default.

    Raises:
        ValueError: it is for another sampling rate.
    """
    found = preprocessor_of(folder, "feature_extractor")
    if found.get("sampling_rate", RATE) != RATE:
        raise ValueError(
            f"{folder} holds a feature extractor for {found['sampling_rate']} samples a second; a "
            f"HuBERT hears {RATE}"
        )
    return bool(found.get("do_normalize", True))


def _beyond(config: Any) -> int:
    """Samples that the last frame hears beyond its own FRAME."""
    reach, step = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        reach += (kernel - 1) * step
        step *= stride
    return reach - FRAME


def _frames(samples: np.ndarray, stride: int) -> np.ndarray:
    """(units, stride * MELS) log-mel frames of an utterance at RATE; the last one repeats."""
    found = log_mel(resample(samples, RATE, SAMPLE_RATE))
    many = max(1, -(-len(samples) // FRAME))
    at = np.minimum(np.arange(-(-many // stride) * stride), min(many, len(found)) - 1)
    return found[at].reshape(-1, stride * MELS)


def _mean_frames(heard: Sequence[tuple[np.ndarray, np.ndarray]], centres: np.ndarray) -> np.ndarray:
    """(units, width) means of the frames where each unit occurs; one that occurs nowhere has those
    of the nearest that does."""
    units = np.concatenate([ids for ids, _ in heard])
    frames = np.concatenate([mel for _, mel in heard])
    sums = np.zeros((len(centres), frames.shape[1]))
    np.add.at(sums, units, frames)
    counts = np.bincount(units, minlength=len(centres))
    occurring = np.flatnonzero(counts)
    means = sums[occurring] / counts[occurring, None]
    return np.ascontiguousarray(means[nearest(centres, centres[occurring])], np.float32)
