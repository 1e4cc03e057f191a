"""Pixel formats of image files to three bands of 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["BACKGROUND", "rgb"]

#: Colour behind what is transparent.
BACKGROUND = (255, 255, 255)

# Grey levels of PNGs with 2 and 4 bits are spread over 8.
_LEVELS = {"L;2": 85, "L;4": 17}
# Tags of TIFF.
_PHOTOMETRIC, _BITS = 262, 258


def rgb(opened: Image.Image) -> np.ndarray:
    """(h, w, 3) uint8 of an opened image, upright as its EXIF orientation says.

    Raises:
        ValueError: values without a known range.
    """
    from PIL import ImageOps

    white = _white(opened)
    opened.info.update(_transparent(opened))
    ImageOps.exif_transpose(opened, in_place=True)
    return np.asarray(_rgb(opened if white is None else _eight_bits(opened, white)))


def _white(opened: Image.Image) -> float | None:
    """The value that is white; None where bands have 8 bits."""
    if not opened.mode.startswith(("I", "F")):
        return None
    tags: Any = getattr(opened, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) == 0:
        raise ValueError("its zero is white; save it with black as zero, or with 8 bits")
    if opened.mode.startswith("I;16"):
        return float(2 ** tags.get(_BITS, (16,))[0] - 1)
    if opened.mode == "I" and opened.format in ("PNG", "PPM"):
        return 65_535.0  # Pillow's own scale for them
    if opened.mode == "F":
        return 1.0
    raise ValueError("its 32-bit integers have no known range; save it with 8 or 16 bits")


def _eight_bits(image: Image.Image, white: float) -> Image.Image:
    """Grey of 0..white, with its transparent level as alpha."""
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not np.isfinite([low, high]).all():
        raise ValueError("it contains NaN or infinity")
    if low < 0 or high > white:
        raise ValueError(
            f"its values lie in {low:g}..{high:g}, not in 0..{white:g}; scale them, or save it "
            "with 8 bits"
        )
    bytes_of = np.empty(values.shape, np.uint8)
    for row, line in enumerate(values):  # a line at a time: in float64 a picture is large
        bytes_of[row] = np.floor(line.astype(np.float64) * (255 / white) + 0.5)
    grey = Image.fromarray(bytes_of)
    key = image.info.get("transparency")
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _transparent(opened: Image.Image) -> dict[Any, Any]:
    """A PNG's transparent grey on the scale of the pixels that Pillow gives."""
    key = opened.info.get("transparency")
    tiles: Any = getattr(opened, "tile", None)
    raw = tiles[0][3] if key is not None and tiles else None
    if isinstance(key, tuple) and raw == "RGB;16B":
        raise ValueError("it has 16-bit colours, one of them transparent; save it with alpha")
    if isinstance(key, int) and raw in _LEVELS:
        return {"transparency": key * _LEVELS[raw]}
    return {}


def _rgb(image: Image.Image) -> Image.Image:
    """Three bands of 8 bits, transparency laid over BACKGROUND."""
    from PIL import Image

    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    visible = image if image.mode == "RGBA" else image.convert("RGBA")
    sheet = Image.new("RGB", image.size, BACKGROUND)
    sheet.paste(visible, (0, 0), visible)
    return sheet
