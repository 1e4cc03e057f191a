"""Image files: the one reader and the one writer, for training, prompts, generation and reports."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...extras import needs
from ...files import replacing
from ..input_checks import readable_file, reason
from ..media import MAX_PIXELS, Limits, Media
from .pixel_formats import rgb

__all__ = [
    "IMAGE",
    "fit_image",
    "grid",
    "image_differences",
    "png_bytes",
    "read_image",
    "write_image",
]

#: Of images that differ nowhere, decibels; two of 8 bits that differ in one value of a 16-megapixel
#: image have less.
MAX_PSNR = 130.0

# Raster formats alone: Pillow hands EPS to another program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "QOI")
# Of its frames the first is the image, the others are previews or depth.
_ONE_IMAGE = ("MPO",)
#: White pixels between the images of a grid.
_GAP = 2


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image as (h, w, 3) uint8, upright as its EXIF orientation says.

    Grey of 16 bits is scaled by its range, floats by 0..1; what is transparent shows BACKGROUND.
    Colour profiles are not applied.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is animated, has more than `max_pixels` pixels, or
            values without a known range.
    """
    path = readable_file(path, "image")
    with needs("reading pictures", "train"):
        from PIL import Image
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
            if getattr(opened, "is_animated", False) and opened.format not in _ONE_IMAGE:
                raise ValueError("it has several frames; save the one that is meant on its own")
            return rgb(opened)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        raise ValueError(f"image {path} cannot be read ({reason(error)})") from error


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (h, w, 3) uint8; the suffix names the format, such as .png."""
    with needs("writing pictures", "train"):
        from PIL import Image
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {path} names no picture format; end it in .png")
    with replacing(path) as part:
        Image.fromarray(image).save(part)


def png_bytes(image: np.ndarray) -> bytes:
    """(h, w, 3) uint8 as a PNG file."""
    with needs("writing pictures", "train"):
        from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fit_image(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square of an image (h, w, 3) uint8, resized to (size, size, 3)."""
    if image.shape[:2] == (size, size):
        return image
    with needs("resizing pictures", "train"):
        from PIL import Image, ImageOps
    fitted = ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.LANCZOS)
    return np.asarray(fitted, np.uint8).copy()


def grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """(h, w, 3) uint8 images of one size, row by row, as one that is about square."""
    columns = math.ceil(math.sqrt(len(images)))
    height, width = (side + _GAP for side in images[0].shape[:2])
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * height - _GAP, columns * width - _GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height - _GAP, left : left + width - _GAP] = image
    return sheet


def image_differences(image: np.ndarray, again: np.ndarray) -> dict[str, float]:
    """Of two (h, w, 3) uint8 images of one size, on pixels in 0..1: the peak signal-to-noise ratio,
    at most MAX_PSNR, and the structural similarity (Wang et al., 2004; a Gaussian window of 11
    pixels)."""
    with needs("the similarity of pictures", "train"):
        import torch
        from torchmetrics.functional.image import structural_similarity_index_measure
    a, b = (
        torch.from_numpy(np.array(i, np.float32)).permute(2, 0, 1)[None] / 255
        for i in (image, again)
    )
    error = float((a - b).square().mean())
    psnr = -10 * math.log10(error) if error else math.inf
    similar: Any = structural_similarity_index_measure(b, a, data_range=1.0)
    return {"PSNR, dB": min(psnr, MAX_PSNR), "SSIM": float(similar)}


class _ImageMedia(Media):
    """(h, w, 3) uint8 arrays; raster files."""

    name = "image"
    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")

    def read(self, path: str | Path, limits: Limits | None = None) -> np.ndarray:
        return read_image(path, (limits or Limits()).max_pixels)

    def write(self, path: str | Path, item: np.ndarray) -> None:
        write_image(path, item)

    def write_all(self, path: str | Path, items: Sequence[np.ndarray]) -> list[Path]:
        """All of them in one file, as a grid."""
        write_image(path, items[0] if len(items) == 1 else grid(items))
        return [Path(path)]

    def check(self, item: Any, where: str) -> np.ndarray:
        image = np.asarray(item)
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"{where} is {image.dtype} of shape {image.shape}; give (height, width, 3) uint8"
            )
        return image

    def differences(self, item: np.ndarray, again: np.ndarray) -> dict[str, float]:
        """PSNR and SSIM (torchmetrics) against the item in the codec's size."""
        return image_differences(fit_image(item, again.shape[0]), again)

    def show(self, item: np.ndarray) -> tuple[str, bytes]:
        return ".png", png_bytes(item)


IMAGE: Media = _ImageMedia()


def _known(image: Any) -> list[str]:
    """The formats that this Pillow has of ours."""
    image.init()
    return [name for name in _FORMATS if name in image.OPEN]
