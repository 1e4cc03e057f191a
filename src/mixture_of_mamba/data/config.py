"""What data a run is made of: documents, their packing, and where it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..modalities.config import ModalityConfig
from ..modalities.media import MAX_PIXELS, MAX_SECONDS
from ..modalities.options import CodecOptions
from ..modalities.registry import codec_class
from .digits.config import CLIP_SIZE, SCENE_SIZE, DigitsConfig

__all__ = ["DataConfig", "check_length", "check_modalities"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Documents and packing; with equal modalities, equal values give equal data everywhere."""

    source: str = "digits"
    """"digits" for the embedded spoken digit scenes, or a path to your own documents: a .jsonl
    file, a .parquet file, or a folder of them."""

    digits: DigitsConfig = field(default_factory=DigitsConfig)
    """The embedded scenes and the real text beside them."""

    validation_fraction: float = 0.05
    """Share of scenes (or of your documents) that is held out for validation."""

    window: int = 256
    """Tokens in one packed window."""

    tokenizers: str | None = None
    """Folder of trained tokenizers to reuse, e.g. RUN/tokenizers; the modalities and their options
    are theirs, or must be equal where they are set. None: train them on this data."""

    seed: int = 0
    """Seed of scenes, voices, splits, tokenizers and packing (not of the training)."""

    skip_bad: bool = False
    """Count and leave out documents that cannot be used, instead of stopping at the first."""

    max_pixels: int = MAX_PIXELS
    """Pixels that a picture of your own, or a frame of a video, may have at most, at most
    178,956,970; a larger one is a bad document."""

    max_seconds: float = MAX_SECONDS
    """Seconds that a sound or video of your own may last at most; a longer one is a bad document.
    Memory needed while a sound is read: 88 kB a second."""

    cache: str | None = None
    """Folder for prepared data. None: data/ in $MOM_CACHE, else in the user's cache folder,
    ~/.cache/mixture-of-mamba."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if not 0.001 <= self.validation_fraction <= 0.5:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it must lie in 0.001..0.5"
            )
        if not 0 < self.max_seconds < float("inf"):
            raise ValueError(f"max_seconds is {self.max_seconds}; it must be above 0 and finite")
        if self.max_pixels > _MOST_PIXELS:
            raise ValueError(
                f"max_pixels is {self.max_pixels:,}; Pillow opens at most {_MOST_PIXELS:,}"
            )

    def check_paths(self) -> None:
        """Hold the paths against the disk; a config is a value without it, and a run is read where
        its data is not.

        Raises:
            ValueError: a source or tokenizers that do not exist.
        """
        if self.source != "digits" and not Path(self.source).exists():
            raise ValueError(
                f"source {self.source!r} does not exist; give 'digits' for the embedded data, or "
                "the path of a .jsonl file, a .parquet file or a folder of them"
            )
        if self.tokenizers is not None and not Path(self.tokenizers).is_dir():
            raise ValueError(
                f"tokenizers {self.tokenizers!r} is no folder; give the tokenizers folder of a run "
                "or leave it out to train new ones"
            )

    def cache_key(self) -> dict[str, Any]:
        """The fields that decide what is built; where it is stored does not."""
        fields = asdict(self)
        del fields["cache"]
        return fields


def check_modalities(data: DataConfig, modalities: Mapping[str, ModalityConfig]) -> None:
    """Hold the modalities of a run against its data.

    Raises:
        ValueError: the embedded data has no such modality or size, or it is of another medium than
            its codec; or an item that is never cut does not fit into a window.
    """
    known = {name: m.options for name, m in modalities.items() if m.codec is not None}
    for name, options in known.items():
        if data.source == "digits":
            if name not in _EMBEDDED:
                raise ValueError(
                    f"the embedded digits have text, image, speech and video, but modalities names "
                    f"{name!r}; give your own documents with data.source"
                )
            _check_medium(name, modalities[name].name)
            if name == "image":
                _check_size("modalities.image.size", options, SCENE_SIZE)
            for option, (_, inner) in options.nested.items():
                _check_size(f"modalities.{name}.{option}.size", inner, CLIP_SIZE)
        if (length := options.max_length) is not None:
            check_length(data, name, length)


def check_length(data: DataConfig, name: str, length: int) -> None:
    """Hold the tokens of an item that is never cut against the window.

    Raises:
        ValueError: an item with its begin and end does not fit.
    """
    if data.window < length + 4:
        raise ValueError(
            f"window is {data.window}, but an item of {name!r} with its begin and end takes "
            f"{length + 4} positions and is never cut; choose a larger window, or options of "
            f"modalities.{name} that make it shorter"
        )


def _check_medium(name: str, codec: str) -> None:
    medium, such_as = _EMBEDDED[name]
    theirs = codec_class(codec).media.name
    if theirs != medium:
        raise ValueError(
            f"modalities.{name}.codec is {codec!r}, which is for {theirs}, but {name} of the "
            f"embedded digits is {medium}; give a codec for {medium}, such as {such_as}"
        )


def _check_size(label: str, options: CodecOptions, wanted: int) -> None:
    # None: what the files of a network say, which are not read yet
    size = getattr(options, "size", None)
    if size not in (None, wanted):
        raise ValueError(
            f"{label} is {size}, but the embedded scenes are {wanted} pixels wide; give {wanted}, "
            "or your own documents"
        )


#: Modality of the embedded digits -> its medium, and a codec for that.
_EMBEDDED = {
    "text": ("text", "bpe"),
    "image": ("image", "vq"),
    "speech": ("sound", "units"),
    "video": ("video", "frames"),
}
#: Least values of whole numbers.
_LEAST = {"seed": 0, "window": 16, "max_pixels": 1}
#: Twice Image.MAX_IMAGE_PIXELS: above it Pillow refuses by itself.
_MOST_PIXELS = 178_956_970
