"""What codecs see of an audio network: its facts, and waveforms to codes and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...extras import needs
from ..pretrained import load_transformers, loading, quiet

__all__ = ["AudioNetwork", "Facts"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a network's config says.

    Attributes:
        name: of its class.
        rate, out_rate: samples a second that it hears and makes.
        frame: samples, as it hears them, in a frame, for which it has one code of each codebook.
        codebooks, codes: how many codebooks, and entries of each.
        least: codebooks that it cannot do without.
        chunk, stride: samples of the pieces that it hears one by one, and between their beginnings;
            None: it hears all at once.
        cannot_decode: as Codec's.
    """

    name: str
    rate: int
    out_rate: int
    frame: int
    codebooks: int
    codes: int
    least: int = 1
    chunk: int | None = None
    stride: int | None = None
    cannot_decode: str | None = None

    def padded(self, samples: int) -> int:
        """Samples of an utterance with the silence that makes its frames whole."""
        before = (self.chunks(samples) - 1) * (self.stride or 0)
        last = max(1, -(-(samples - before) // self.frame)) * self.frame
        if self.chunk is not None and self.stride is not None and last > self.stride:
            last = self.chunk  # the network cannot join a shorter one with what it overlaps
        return before + last

    def chunks(self, samples: int) -> int:
        """Pieces of an utterance that the network hears one by one."""
        if self.chunk is None or self.stride is None:
            return 1
        return max(1, -(-(samples - self.chunk + self.stride) // self.stride))

    def frames(self, samples: int) -> int:
        """Frames of an utterance of a padded length."""
        before = self.chunks(samples) - 1
        last = (samples - before * (self.stride or 0)) // self.frame
        return before * ((self.chunk or 0) // self.frame) + last


class AudioNetwork:
    """A network of one class, without gradients.

    Args:
        network: of the class `class_name`.
        facts: what its config says.
        codebooks: how many of them count, from the first on.
        extractor: its feature extractor, where its class needs one.
    """

    class_name: ClassVar[str]
    #: Its own feature extractor, where the waveform alone does not do.
    extractor_name: ClassVar[str | None] = None

    def __init__(self, network: Any, facts: Facts, codebooks: int, extractor: Any = None) -> None:
        self.network, self.facts, self.codebooks = network, facts, codebooks
        self.extractor = extractor

    @classmethod
    def facts_from(cls, config: Any) -> Facts:
        """Of a config of transformers.

        Raises:
            ValueError: a network of this kind cannot be used.
        """
        raise NotImplementedError

    def encode(self, waveform: Any) -> Any:
        """(samples,) float32, of a padded length, to (codebooks, frames) codes."""
        raise NotImplementedError

    def decode(self, codes: Any) -> Any:
        """(codebooks, frames) codes to (channels, samples)."""
        return self.network.decode(audio_codes=codes[None]).audio_values.reshape(1, -1)

    def try_out(self, folder: Path) -> None:
        """Encode and decode three frames of silence.

        Raises:
            ValueError: it cannot, gives other codes than its config says, or sound of NaN or
                infinite numbers; names the folder.
        """
        import torch

        samples = self.facts.padded(3 * self.facts.frame)
        with loading(folder, self.class_name), torch.inference_mode():
            codes = self.encode(torch.zeros(samples))
            wanted = (self.codebooks, self.facts.frames(samples))
            if (
                tuple(codes.shape) != wanted
                or not 0 <= codes.min() <= codes.max() < self.facts.codes
            ):
                raise ValueError(
                    f"{samples} samples became {tuple(codes.shape)} codes of {int(codes.min())}.."
                    f"{int(codes.max())}, but its config says {wanted} codes of 0.."
                    f"{self.facts.codes - 1}"
                )
            if not self.facts.cannot_decode and not self.decode(codes).isfinite().all():
                raise ValueError("the sound that it makes of silence is NaN or infinite")

    def save(self, folder: Path) -> None:
        """Write network and feature extractor as transformers does."""
        with quiet():
            self.network.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path, facts: Facts, codebooks: int) -> AudioNetwork:
        """The network of a folder."""
        extractor = cls._extractor(folder, facts)
        return cls(load_transformers(cls._class(), folder), facts, codebooks, extractor)

    @classmethod
    def _class(cls) -> Any:
        with needs("audio networks", "train"):
            import transformers
        return getattr(transformers, cls.class_name)

    @classmethod
    def _extractor(cls, folder: Path, facts: Facts) -> Any:
        if cls.extractor_name is None:
            return None
        file = folder / "preprocessor_config.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; a {cls.class_name} hears features of its own "
                f"{cls.extractor_name}, so save that beside it with save_pretrained"
            )
        with loading(folder, cls.extractor_name):
            import transformers

            extractor = getattr(transformers, cls.extractor_name).from_pretrained(folder)
        if (extractor.sampling_rate, extractor.hop_length) != (facts.rate, facts.frame):
            raise ValueError(
                f"{file} is for {extractor.sampling_rate} samples a second and frames of "
                f"{extractor.hop_length}, but the {cls.class_name} beside it for {facts.rate} and "
                f"{facts.frame}; give a folder whose files belong together"
            )
        return extractor
