"""A sheet of images under each other, for the README and reports."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...modalities.image.files import read_image

__all__ = ["captioned_grid"]


def captioned_grid(rows: Sequence[tuple[str, Mapping[str, Path]]], scale: int = 3) -> np.ndarray:
    """Images under each other, one row for each caption.

    Args:
        rows: caption, and by column files of equally large images. A column that a row lacks stays
            empty there.
        scale: pixels of the result for each pixel of an image.

    Returns:
        (h, w, 3) uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    columns = list(dict.fromkeys(name for _, files in rows for name in files))
    first = read_image(next(file for _, files in rows for file in files.values()))
    height, width, gap, text = first.shape[0] * scale, first.shape[1] * scale, 8, 330
    font, head = ImageFont.load_default(15), 26
    size = (text + len(columns) * (width + gap) + gap, head + len(rows) * (height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for j, name in enumerate(columns):
        draw.text((text + j * (width + gap), 5), name, "black", font)
    for i, (caption, files) in enumerate(rows):
        y = head + i * (height + gap)
        draw.multiline_text((gap, y), "\n".join(textwrap.wrap(caption, 40)), "black", font)
        for j, name in enumerate(columns):
            if name not in files:
                continue
            picture = Image.fromarray(read_image(files[name]))
            larger = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(larger, (text + j * (width + gap), y))
    return np.asarray(sheet)
