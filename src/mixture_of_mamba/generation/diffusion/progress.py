"""Progress bar of denoising, in images."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["SegmentProgress"]


class SegmentProgress:
    """A bar on standard error over all images (or other continuous segments) of a call.

    It appears with the first denoising step. A step of images that are denoised together counts its
    share of each, so that the time left is known before the first of them is whole.

    Args:
        total: images of the call; None where the model decides how many there will be.
        show: None: on a terminal.
    """

    def __init__(self, total: int | None, *, show: bool | None = None) -> None:
        self.total = total
        self.show = sys.stderr.isatty() if show is None else show
        self._bar: Any = None

    def __enter__(self) -> SegmentProgress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, images: float) -> None:
        """Count so many images, or parts of images, as done."""
        if not self.show:
            return
        if self._bar is None:
            from tqdm import tqdm

            form = "{desc}: {n:.0f} [{elapsed}]"
            if self.total is not None:
                form = "{desc}: {n:.0f}/{total}|{bar}| [{elapsed}<{remaining}]"
            self._bar = tqdm(total=self.total, desc="denoised", bar_format=form, leave=False)
        self._bar.update(images)
