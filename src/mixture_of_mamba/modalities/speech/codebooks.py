"""Speech as the codes of an audio network that somebody else trained, and back.

A network has one code of each codebook for every frame. They stand one after the other, frame by
frame, each codebook with ids of its own: code + codebook * entries, which `cycle` says too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ..codec import Codec
from ..pretrained import PretrainedOptions
from .audio_network import AudioNetwork, Facts
from .audio_networks import facts_of, network_class
from .files import NATIVE_SOUND
from .resampling import resample, to_float, to_int16

__all__ = [
    "AudioCodec",
    "AudioOptions",
    "EncodecCodec",
    "EncodecOptions",
    "MimiCodec",
    "MimiOptions",
]

#: Seconds that a network hears or makes at once; what is longer goes through it in pieces, since
#: its memory would grow with an hour's recording to tens of gigabytes.
SECONDS = 30

_META, _NETWORK = "codebooks.json", "network"


@dataclass(frozen=True, kw_only=True)
class _CodebookOptions(PretrainedOptions):
    #: Model types, as transformers names them, that the codec can be.
    types: ClassVar[tuple[str, ...]]

    codebooks: int = 1
    """Codebooks that count, from the network's first on; each adds one id to every frame. The first
    one alone keeps what is said (Mimi's is trained for that) and little of the voice."""

    sampling_rate: int | None = None
    """Samples a second that the network hears. None: as its config says; another is refused."""

    def __post_init__(self) -> None:
        if self.codebooks < 1:
            raise ValueError(f"codebooks is {self.codebooks}; it must be at least 1")

    @property
    def rate(self) -> int:
        """Samples a second that the network hears."""
        return self.sampling_rate or facts_of(self.folder, self.types).rate

    def check_files(self) -> None:
        with self.reading() as folder:
            found = network_class(folder, self.types)
            facts = facts_of(folder, self.types)
        self.check(facts)
        with self.reading() as folder:
            found.load(folder, facts, self.codebooks).try_out(folder)

    def completed(self) -> Self:
        return replace(self, sampling_rate=self.rate)

    def check(self, facts: Facts) -> None:
        """Hold the options against a network.

        Raises:
            ValueError: it has not so many codebooks, or another sampling rate.
        """
        if not facts.least <= self.codebooks <= facts.codebooks:
            raise ValueError(
                f"codebooks is {self.codebooks}, but the {facts.name} has {facts.codebooks}; "
                f"choose {facts.least} to {facts.codebooks}"
            )
        if self.sampling_rate not in (None, facts.rate):
            raise ValueError(
                f"sampling_rate is {self.sampling_rate}, but the {facts.name} hears {facts.rate} "
                "samples a second; leave it out: sounds of any rate are resampled"
            )


@dataclass(frozen=True, kw_only=True)
class MimiOptions(_CodebookOptions):
    """Of `mimi`, codes of a MimiModel."""

    types = ("mimi",)


@dataclass(frozen=True, kw_only=True)
class EncodecOptions(_CodebookOptions):
    """Of `encodec`, codes of an EncodecModel."""

    types = ("encodec",)


@dataclass(frozen=True, kw_only=True)
class AudioOptions(_CodebookOptions):
    """Of `audio`, codes of a network of AutoModelForAudioTokenization."""

    types = ("dac", "higgs_audio_v2_tokenizer", "neucodec", "wavtokenizer", "xcodec2")


class _CodebookCodec(Codec):
    """Speech <-> codes; `size` counts those of all codebooks and the end token.

    An utterance ends with silence up to a whole frame. Each is encoded by itself, on one thread: a
    network that looks at whole utterances would hear the padding of a batch.

    Args:
        folder: of the network; it is loaded from there when it is first needed.
        facts: what it says of itself.
    """

    media = NATIVE_SOUND
    kind = "discrete"
    fixed_length = None

    def __init__(self, options: Any, folder: Path, facts: Facts) -> None:
        options.check(facts)
        books = options.codebooks
        self.options = replace(options, pretrained=None, sampling_rate=facts.rate)
        self.size = books * facts.codes + 1
        self.facts = facts
        self._first = np.arange(books) * facts.codes
        if books > 1:
            self.cycle = tuple((int(low), int(low) + facts.codes) for low in self._first)
        self.cannot_decode = facts.cannot_decode
        self._folder = folder
        self._loaded: AudioNetwork | None = None

    @classmethod
    def prepare(cls, item: tuple[np.ndarray, int], options: Any) -> np.ndarray:
        """(samples,) int16 at the network's rate, of (waveform (samples,), samples a second)."""
        waveform, rate = item
        return to_int16(resample(waveform, rate, options.rate))

    @classmethod
    def fit(
        cls,
        prepared: Sequence[np.ndarray],
        options: Any,
        *,
        seed: int,
        report: Callable[[str], None],
    ) -> Self:
        """The network of `options.pretrained`; nothing is trained."""
        facts = facts_of(options.folder, options.types)
        codec = cls(options, options.folder, facts)
        report(
            f"{facts.name}: {facts.rate / facts.frame:g} frames a second of {options.codebooks} of "
            f"{facts.codebooks} codebooks of {facts.codes} codes"
        )
        return codec

    @property
    def _network(self) -> AudioNetwork:
        if self._loaded is None:
            found = network_class(self._folder, self.options.types)
            self._loaded = found.load(self._folder, self.facts, self.options.codebooks)
        return self._loaded

    def encode(self, prepared: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each (samples,) int16 its ids, int64, (frames * codebooks,)."""
        import torch

        from ..threads import one_thread

        network, facts, out = self._network, self.facts, []
        with one_thread(), torch.inference_mode():
            for samples in prepared:
                waveform = np.zeros(facts.padded(len(samples)), np.float32)
                waveform[: len(samples)] = to_float(samples)
                pieces = torch.from_numpy(waveform).split(self._piece * facts.frame)
                codes = np.concatenate([network.encode(piece).numpy() for piece in pieces], 1)
                out.append((codes.T.astype(np.int64) + self._first).reshape(-1))
        return out

    def decode(self, tokens: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Sounds of id sequences: (waveform float32, samples a second) each.

        Raises:
            ValueError: no whole frames, an id that is none of the codebook whose place it has, or
                a network without a decoder.
        """
        import torch

        if self.cannot_decode:
            raise ValueError(self.cannot_decode)
        sounds = []
        for ids in map(np.asarray, tokens):
            codes = self._codes(ids)
            if not codes.size:
                sounds.append((np.zeros(0, np.float32), self.facts.out_rate))
                continue
            pieces = torch.from_numpy(codes).split(self._piece, 1)
            with torch.inference_mode():
                waveform = torch.cat([self._network.decode(piece).mean(0) for piece in pieces])
            sounds.append((waveform.numpy(), self.facts.out_rate))
        return sounds

    @property
    def _piece(self) -> int:
        """Frames that go through the network at once. One that hears chunks is given all."""
        if self.facts.chunk is not None:
            return 1 << 40
        return max(1, SECONDS * self.facts.rate // self.facts.frame)

    def _codes(self, ids: np.ndarray) -> np.ndarray:
        """(codebooks, frames) int64 of (frames * codebooks,) ids."""
        books, codes = len(self._first), self.facts.codes
        if ids.ndim != 1 or len(ids) % books:
            raise ValueError(
                f"{ids.shape} ids are no whole frames of {books}, one of each codebook; leave out "
                "begin and end tokens"
            )
        found = ids.astype(np.int64).reshape(-1, books) - self._first
        wrong = np.flatnonzero((found < 0) | (found >= codes))
        if len(wrong):
            at, book = int(wrong[0]), int(wrong[0]) % books
            low = int(self._first[book])
            raise ValueError(
                f"the id at place {at} is {int(ids[at])}, but codebook {book}, whose place it is, "
                f"has {low}..{low + codes - 1}; the end token is no code"
            )
        return np.ascontiguousarray(found.T)

    def save(self, folder: Path) -> None:
        """Writes `network/` as transformers does, and `codebooks.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._network.save(folder / _NETWORK)
        meta = {"options": asdict(self.options), "facts": asdict(self.facts)}
        (folder / _META).write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        meta = json.loads((folder / _META).read_text())
        return cls(cls.Options(**meta["options"]), folder / _NETWORK, Facts(**meta["facts"]))


class MimiCodec(_CodebookCodec):
    """Speech <-> codes of a MimiModel."""

    codec = "mimi"
    Options = MimiOptions


class EncodecCodec(_CodebookCodec):
    """Speech <-> codes of an EncodecModel."""

    codec = "encodec"
    Options = EncodecOptions


class AudioCodec(_CodebookCodec):
    """Speech <-> codes of a network of AutoModelForAudioTokenization that has codebooks."""

    codec = "audio"
    Options = AudioOptions
