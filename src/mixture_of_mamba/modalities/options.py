"""Options of the built-in codecs: values that are checked when made, importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

__all__ = [
    "CODE_SIZE",
    "LEAST_VOCABULARY",
    "ORDERS",
    "CodecOptions",
    "PatchOptions",
    "UnitOptions",
    "VQOptions",
    "at_least",
]

#: Side of the square of pixels that one code of the image tokenizer covers.
CODE_SIZE = 4
#: Orders in which the patches of an image are read: row by row, or along a Z-order curve.
ORDERS = ("rows", "z")
#: Least number of text tokens: the 256 bytes and room for special tokens.
LEAST_VOCABULARY = 270


@dataclass(frozen=True, kw_only=True)
class CodecOptions:
    """What a codec is fitted with; subclasses are frozen dataclasses, every field with a default.

    Attributes:
        kind: of the codec, "discrete" or "continuous".
        training: fields that say how the codec is trained, not what it is; a fitted codec that is
            reused does not decide them.
        paths: fields that name files or folders of the user.
    """

    kind: ClassVar[str] = "discrete"
    training: ClassVar[tuple[str, ...]] = ()
    paths: ClassVar[tuple[str, ...]] = ()

    @property
    def fixed_length(self) -> int | None:
        """Tokens of every item, without begin and end; None where they vary or are not known before
        the codec is."""
        return None

    @property
    def max_length(self) -> int | None:
        """Most tokens of an item that is never cut; None where there is no such bound."""
        return self.fixed_length

    @property
    def nested(self) -> Mapping[str, tuple[str, CodecOptions]]:
        """Options that describe a codec inside this one, with its name and all of its options."""
        return {}

    def completed(self) -> Self:
        """The same, with what is not given and stands in the files that these name, such as the
        size of an image; asked after `check_files`."""
        return self

    def named_files(self) -> dict[str, list[Path]]:
        """Option -> the files and folders that it names, whose content decides what the codec is;
        options that are None are left out.

        Raises:
            FileNotFoundError, ValueError: something is missing.
        """
        named = {option: getattr(self, option) for option in self.paths}
        return {option: [Path(path)] for option, path in named.items() if path is not None}

    def check_files(self) -> None:
        """Hold what the options name against the disk, before anything is read or trained.

        Raises:
            FileNotFoundError, ValueError: something is missing or does not fit.
        """
        for option in self.paths:
            path = getattr(self, option)
            if path is not None and not Path(path).exists():
                raise ValueError(
                    f"{option} is {path!r}, which does not exist; give the path of a pretrained "
                    "one, or leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class _SquareImageOptions(CodecOptions):
    size: int = 32
    """Side of an image in pixels, a multiple of 8; your own images are cropped to a square and
    resized to it."""

    def __post_init__(self) -> None:
        at_least("size", self.size, 8)
        if self.size % 8:
            raise ValueError(
                f"size is {self.size}; it must be a multiple of 8 pixels, so that patches and "
                "image codes divide it"
            )


@dataclass(frozen=True, kw_only=True)
class VQOptions(_SquareImageOptions):
    """Of `vq`, codes of a VQ autoencoder, one for each 4x4 pixels."""

    training: ClassVar[tuple[str, ...]] = ("steps",)

    codes: int = 512
    """Entries of the codebook."""

    steps: int = 1200
    """Training steps, 16 images each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("codes", self.codes, 2)
        at_least("steps", self.steps, 1)

    @property
    def fixed_length(self) -> int:
        return (self.size // CODE_SIZE) ** 2


@dataclass(frozen=True, kw_only=True)
class PatchOptions(_SquareImageOptions):
    """Of `patches`, the raw pixels of a square as one vector."""

    kind: ClassVar[str] = "continuous"
    #: Values that `patch` may have.
    patches: ClassVar[tuple[int, ...]] = (2, 4, 8)

    patch: int = 4
    """Side of the square of pixels that one vector stands for: 2, 4 or 8."""

    order: str = "rows"
    """Order of the vectors of an image: "rows", or "z" for a Z-order curve, which keeps neighbours
    near."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch not in self.patches:
            *others, last = self.patches
            choices = f"{', '.join(map(str, others))} or {last}"
            raise ValueError(f"patch is {self.patch}; choose {choices} pixels")
        if self.size % self.patch:
            raise ValueError(
                f"size is {self.size}, but patch is {self.patch}; give a size that is a multiple "
                "of the patch"
            )
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}; choose from {', '.join(ORDERS)}")

    @property
    def fixed_length(self) -> int:
        return (self.size // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class UnitOptions(CodecOptions):
    """Of `units`, clusters of log-mel frames."""

    units: int = 256
    """Number of speech units; 25 a second."""

    def __post_init__(self) -> None:
        at_least("units", self.units, 2)


def at_least(name: str, value: int, least: int) -> None:
    """
    Raises:
        ValueError: the value of the option is below it.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
