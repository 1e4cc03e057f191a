"""What the embedded data is made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["CLIP_SIZE", "SCENE_SIZE", "DigitsConfig", "clip_share"]

#: Side of the embedded scenes, pixels.
SCENE_SIZE = 32
#: Side of the frames of the embedded clips, pixels.
CLIP_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """Spoken digit scenes, and the real text beside them."""

    scenes: int = 20_000
    """Number of scenes, training and validation together."""

    text_fraction: float = 0.5
    """Share of real text (Python's documentation) among all tokens, 0..0.95."""

    text_code: bool = False
    """Adds the code and comments of Python's standard library to the real text, four times as much
    as the documentation: for runs that would see that too often."""

    caption_first: float = 0.5
    """Share of scenes whose caption stands before the picture (Transfusion: 0.8)."""

    def __post_init__(self) -> None:
        if self.scenes < 20:
            raise ValueError(f"scenes is {self.scenes}; it must be at least 20")
        for name, high in (("text_fraction", 0.95), ("caption_first", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie in 0..{high:g}")


def clip_share(modalities: Collection[str]) -> float:
    """Share of the scenes that are clips in a run with these modalities."""
    if "video" not in modalities:
        return 0.0
    return 0.5 if "image" in modalities else 1.0
