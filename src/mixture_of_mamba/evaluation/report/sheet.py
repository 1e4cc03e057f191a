"""A sheet of images under each other, for the README and reports."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...modalities.image.files import read_image
from ...modalities.video_files import read_clip, strip

__all__ = ["captioned_grid"]


#: Suffixes of pictures that may move; see Media.show.
MOVING = (".webp", ".gif")


def captioned_grid(rows: Sequence[tuple[str, Mapping[str, Path]]], scale: int = 3) -> np.ndarray:
    """Images under each other, one row for each caption.

    Args:
        rows: caption, and files of images by column; of moving ones all frames stand side by side.
            A column that a row lacks stays empty there.
        scale: pixels of the result for each pixel of an image.

    Returns:
        (h, w, 3) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    images = [{name: _image(file) for name, file in files.items()} for _, files in rows]
    columns = list(dict.fromkeys(name for row in images for name in row))
    widths = [scale * max(r[name].shape[1] for r in images if name in r) for name in columns]
    heights = [scale * max(image.shape[0] for image in row.values()) for row in images]
    gap, text = 8, 330
    lefts = [text + sum(widths[:j]) + j * gap for j in range(len(columns) + 1)]
    font, head = ImageFont.load_default(15), 26
    size = (lefts[-1] + gap, head + sum(heights) + len(rows) * gap + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for left, name in zip(lefts, columns, strict=False):
        draw.text((left, 5), name, "black", font)
    top = head
    for (caption, _), row, height in zip(rows, images, heights, strict=True):
        draw.multiline_text((gap, top), "\n".join(textwrap.wrap(caption, 40)), "black", font)
        for left, name in zip(lefts, columns, strict=False):
            if name in row:
                larger = row[name].repeat(scale, axis=0).repeat(scale, axis=1)
                sheet.paste(Image.fromarray(larger), (left, top))
        top += height + gap
    return np.asarray(sheet)


def _image(file: Path) -> np.ndarray:
    return strip(read_clip(file)) if file.suffix in MOVING else read_image(file)
