"""Pixels as a pretrained network takes them: scaled, centred, divided; and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..pretrained import preprocessor_of

__all__ = ["UNIT", "PixelScale"]


@dataclass(frozen=True)
class PixelScale:
    """(pixel * factor - mean) / std of uint8 pixels, by channel.

    Attributes:
        factor: of all channels; what processors call rescale_factor.
        mean, std: of red, green and blue.
    """

    factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        numbers = (self.factor, *self.mean, *self.std)
        if not all(np.isfinite(number) for number in numbers) or min(self.factor, *self.std) <= 0:
            raise ValueError(f"rescale_factor and image_std must be above 0, but {self} was given")

    @classmethod
    def of_folder(cls, folder: Path, default: PixelScale) -> PixelScale:
        """That of a network's processor, where its folder says it.

        Raises:
            ValueError: values of which no scale can be made.
        """
        said = preprocessor_of(folder, "image_processor")
        if not said:
            return default
        try:
            return cls(
                _number(said, "do_rescale", "rescale_factor", default.factor, 1.0),
                _channels(said, "image_mean", default.mean, 0.0),
                _channels(said, "image_std", default.std, 1.0),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the processor of {folder} says no scale of pixels ({error}); save it again with "
                "save_pretrained, or remove preprocessor_config.json"
            ) from error

    def to_network(self, pixels: np.ndarray) -> np.ndarray:
        """(s, s, 3) uint8 to (3, s, s) float32."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        x = (pixels.astype(np.float32) * np.float32(self.factor) - mean) / std
        return np.ascontiguousarray(x.transpose(2, 0, 1))

    def to_pixels(self, values: np.ndarray) -> np.ndarray:
        """(3, s, s) float to (s, s, 3) uint8; clipped."""
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        x = values.transpose(1, 2, 0) * std + mean
        return (x / np.float32(self.factor)).round().clip(0, 255).astype(np.uint8)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(plain["factor"], tuple(plain["mean"]), tuple(plain["std"]))


#: 0..255 to -1..1.
UNIT = PixelScale(1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def _number(
    said: Mapping[str, Any], switch: str, name: str, default: float, without: float
) -> float:
    if said.get(switch) is False:
        return without
    return default if (value := said.get(name)) is None else float(value)


def _channels(
    said: Mapping[str, Any], name: str, default: tuple[float, float, float], without: float
) -> tuple[float, float, float]:
    if said.get("do_normalize") is False:
        return (without,) * 3
    value = said.get(name)
    if value is None:
        return default
    red, green, blue = [value] * 3 if isinstance(value, (int, float)) else value
    return float(red), float(green), float(blue)
