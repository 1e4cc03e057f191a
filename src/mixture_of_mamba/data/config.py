"""What data a run is made of: one value that names the setting, the source and the tokenizers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..modalities.media import MAX_PIXELS, MAX_SECONDS
from ..modalities.options import CODE_SIZE, ORDERS

__all__ = ["MODALITIES", "OF_TOKENIZERS", "DataConfig"]

MODALITIES: dict[str, tuple[tuple[str, str], ...]] = {
    "chameleon": (("text", "discrete"), ("image", "discrete")),
    "chameleon_speech": (("text", "discrete"), ("image", "discrete"), ("speech", "discrete")),
    "transfusion": (("text", "discrete"), ("image", "continuous")),
}
"""Modalities of each setting with their kinds, in the order of their modality ids."""

SCENE_SIZE = 32
"""Side of the embedded scenes, pixels."""


SOURCES = ("patches", "autoencoder")
"""Codecs of continuous images."""

OF_TOKENIZERS: dict[str, Any] = {
    "text_vocabulary": 1024,
    "image_size": SCENE_SIZE,
    "image_codes": 512,
    "speech_units": 256,
    "latents": "patches",
    "patch": 4,
    "patch_order": "rows",
}
"""Fields that describe tokenizers, with their defaults; reused tokenizers decide them instead."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Documents, tokenizers and packing; equal values give equal data in every process.

    A field of OF_TOKENIZERS that is None takes its default where tokenizers are trained. Where they
    are reused it stays None, "as they have it", until `data.build.settled` has read them.
    """

    setting: str = "chameleon_speech"
    """"chameleon" (text, image tokens), "chameleon_speech" (and speech units) or "transfusion"
    (text tokens, continuous image latents)."""

    source: str = "digits"
    """"digits" for the embedded spoken digit scenes, or a path to your own documents: a .jsonl
    file, a .parquet file, or a folder of them."""

    scenes: int = 20_000
    """Number of embedded scenes, training and validation together."""

    validation_fraction: float = 0.05
    """Share of scenes (or of your documents) that is held out for validation."""

    text_fraction: float = 0.5
    """Share of real text (Python's documentation) among all tokens of the embedded data,
    0..0.95. Your own documents are taken as they are."""

    text_code: bool = False
    """Adds the code and comments of Python's standard library to the embedded real text, four
    times as much as the documentation: for runs that would see that too often."""

    caption_first: float = 0.5
    """Share of embedded scenes whose caption stands before the picture (Transfusion: 0.8)."""

    window: int = 256
    """Tokens in one packed window."""

    text_vocabulary: int | None = None
    """Entries of the text vocabulary: byte-level BPE tokens and the special tokens together; at
    least as many where text_tokenizer brings its own. None: those of reused tokenizers, else
    1024."""

    text_tokenizer: str | None = None
    """A tokenizer.json, or the folder of a pretrained model that has one, for text. None: train a
    tokenizer on this data."""

    image_size: int | None = None
    """Side of an image in pixels; your own images are cropped to a square and resized to it. None:
    as reused tokenizers have it, else 32."""

    image_codes: int | None = None
    """Codes of the image tokenizer (discrete settings); each covers 4x4 pixels. None: those of
    reused tokenizers, else 512."""

    image_steps: int = 1200
    """Training steps of the image tokenizer, 16 images each."""

    speech_units: int | None = None
    """Number of speech units; 25 a second. None: those of reused tokenizers, else 256."""

    latents: str | None = None
    """Source of the continuous image latents (transfusion): "patches" of raw pixels, "autoencoder"
    for a small KL autoencoder trained on the images (image_steps), or the folder of a diffusers
    AutoencoderKL. None: that of reused tokenizers, else "patches"."""

    patch: int | None = None
    """Side of the square of pixels that one latent vector stands for: 2, 4 or 8. None: that of
    reused tokenizers, else 4."""

    patch_order: str | None = None
    """Order of the latent vectors of a picture: "rows", or "z" for a Z-order curve, which keeps
    neighbours near. None: that of reused tokenizers, else "rows"."""

    tokenizers: str | None = None
    """Folder of trained tokenizers to reuse, e.g. RUN/tokenizers; what they decide (vocabularies,
    latents, patches, size of images) is theirs, or must be equal where it is set. None: train them
    on this data."""

    seed: int = 0
    """Seed of scenes, voices, splits, tokenizers and packing (not of the training)."""

    skip_bad: bool = False
    """Count and leave out documents that cannot be used, instead of stopping at the first."""

    max_pixels: int = MAX_PIXELS
    """Pixels that a picture of your own may have at most, at most 178,956,970; a larger one is a
    bad document."""

    max_seconds: float = MAX_SECONDS
    """Seconds that a sound of your own may last at most; a longer one is a bad document. Memory
    needed while one is read: 88 kB a second."""

    cache: str | None = None
    """Folder for prepared data. None: data/ in $MOM_CACHE, else in the user's cache folder,
    ~/.cache/mixture-of-mamba."""

    def __post_init__(self) -> None:
        if self.tokenizers is None:
            for name, default in OF_TOKENIZERS.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, default)
        if self.setting not in MODALITIES:
            raise ValueError(f"setting is {self.setting!r}; choose from {', '.join(MODALITIES)}")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        for name, low, high in (
            ("text_fraction", 0.0, 0.95),
            ("validation_fraction", 0.001, 0.5),
            ("caption_first", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie in {low:g}..{high:g}")
        if self.patch_order not in (None, *ORDERS):
            raise ValueError(
                f"patch_order is {self.patch_order!r}; choose from {', '.join(ORDERS)}"
            )
        if self.patch not in (None, 2, 4, 8):
            raise ValueError(f"patch is {self.patch}; choose 2, 4 or 8 pixels")
        if not 0 < self.max_seconds < float("inf"):
            raise ValueError(f"max_seconds is {self.max_seconds}; it must be above 0 and finite")
        if self.max_pixels > _MOST_PIXELS:
            raise ValueError(
                f"max_pixels is {self.max_pixels:,}; Pillow opens at most {_MOST_PIXELS:,}"
            )
        if self.text_tokenizer is not None and self.tokenizers is not None:
            raise ValueError(
                f"text_tokenizer is {self.text_tokenizer!r}, but tokenizers {self.tokenizers!r} "
                "bring a text tokenizer too; give one of them"
            )
        if self.image_size is None:
            return
        if self.image_size % 8:
            raise ValueError(
                f"image_size is {self.image_size}; it must be a multiple of 8 pixels, so that "
                "patches and image codes divide it"
            )
        if self.source == "digits" and self.image_size != SCENE_SIZE:
            raise ValueError(
                f"image_size is {self.image_size}, but the embedded scenes are {SCENE_SIZE} pixels "
                f"wide; leave image_size at {SCENE_SIZE} or give your own source"
            )
        continuous = dict(self.modalities)["image"] == "continuous"
        side = self.patch if continuous else CODE_SIZE
        if side is not None and self.window < (tokens := (self.image_size // side) ** 2 + 4):
            raise ValueError(
                f"window is {self.window}, but an image with its begin and end takes {tokens} "
                "positions and is never cut; choose a larger window or "
                f"{'a larger patch' if continuous else 'a smaller image_size'}"
            )

    def check_paths(self) -> None:
        """Hold the paths against the disk; a config is a value without it, and a run is read where
        its data is not.

        Raises:
            ValueError: a source, latents or tokenizers that do not exist.
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
        if self.latents not in (None, *SOURCES) and not Path(str(self.latents)).is_dir():
            raise ValueError(
                f"latents is {self.latents!r}; choose from {', '.join(SOURCES)}, or give the "
                "folder of a diffusers AutoencoderKL"
            )

    @property
    def modalities(self) -> tuple[tuple[str, str], ...]:
        """(name, kind) of the setting's modalities, in the order of their ids."""
        return MODALITIES[self.setting]

    def chosen(self, name: str) -> Any:
        """A field of OF_TOKENIZERS, where it has to be known.

        Raises:
            ValueError: it was left to tokenizers that have not been read.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"data.{name} is left to the tokenizers in {self.tokenizers}; data.build.settled "
                "reads it"
            )
        return value

    def content(self) -> dict[str, Any]:
        """The fields that decide what is built; where it is stored does not."""
        fields = asdict(self)
        del fields["cache"]
        return fields


_LEAST = {
    "seed": 0,
    "scenes": 20,
    "window": 16,
    "text_vocabulary": 270,
    "image_size": 8,
    "image_codes": 2,
    "image_steps": 1,
    "speech_units": 2,
    "max_pixels": 1,
}

_MOST_PIXELS = 178_956_970
"""Twice Image.MAX_IMAGE_PIXELS: above it Pillow refuses by itself."""
