"""Options of codecs: values that are checked when made. Each codec has its own beside its class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

__all__ = [
    "CODE_SIZE",
    "LEAST_VOCABULARY",
    "CodecOptions",
    "SquareImageOptions",
    "at_least",
]

#: Side of the square of pixels that one code of the image tokenizer covers.
CODE_SIZE = 4
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
class SquareImageOptions(CodecOptions):
    """Of a codec of square images."""

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


def at_least(name: str, value: int, least: int) -> None:
    """
    Raises:
        ValueError: the value of the option is below it.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
