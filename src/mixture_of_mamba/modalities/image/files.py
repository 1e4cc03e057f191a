"""Reads picture files: the one reader for training, prompts and evaluation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras import needs
from ..input_checks import readable_file, reason

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["BACKGROUND", "MAX_PIXELS", "fit_image", "read_image"]

MAX_PIXELS = 50_000_000
"""Most pixels of a picture that is decoded; a larger one is refused by its header."""
BACKGROUND = (255, 255, 255)
"""Colour behind what is transparent."""

# Raster formats alone: Pillow hands EPS to another program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "QOI")
_ONE_PICTURE = ("MPO",)  # of its frames the first is the picture, the others are previews or depth
_LEVELS = {"L;2": 85, "L;4": 17}  # grey levels of PNGs with 2 and 4 bits are spread over 8
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as (h, w, 3) uint8, upright as its EXIF orientation says.

    Grey of 16 bits is scaled by its range, floats by 0..1; what is transparent shows BACKGROUND.
    Colour profiles are not applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no picture, is animated, has more than `max_pixels` pixels, or
            values without a known range.
    """
    path = readable_file(path, "image")
    with needs("reading pictures", "train"):
        from PIL import Image, ImageOps
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            opened = Image.open(path, formats=_known(Image))
        with opened:
            width, height = opened.size
            if width * height > max_pixels:
                raise ValueError(
                    f"it has {width} x {height} pixels, but at most {max_pixels:,} are read "
                    "(data.max_pixels); make it smaller"
                )
            if getattr(opened, "is_animated", False) and opened.format not in _ONE_PICTURE:
                raise ValueError("it has several frames; save the one that is meant on its own")
            white = _white(opened)
            opened.info.update(_transparent(opened))
            ImageOps.exif_transpose(opened, in_place=True)
            return np.asarray(_rgb(opened if white is None else _eight_bits(opened, white)))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ValueError(f"image {path} cannot be read ({reason(error)})") from error


def fit_image(picture: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a picture (h, w, 3) uint8, resized to (size, size, 3)."""
    if picture.shape[:2] == (size, size):
        return picture
    with needs("resizing pictures", "train"):
        from PIL import Image, ImageOps
    fitted = ImageOps.fit(Image.fromarray(picture), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted, np.uint8).copy()


def _known(image: Any) -> list[str]:
    """The formats that this Pillow has of ours."""
    image.init()
    return [name for name in _FORMATS if name in image.OPEN]


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
