"""Documents that are longer than a window, in pieces that fit.

Pictures are never cut. Other items and texts are cut only where they are too long by themselves,
and a text stays with the item that it belongs to: the one behind it, if the document begins with
text; else the one in front of it. Where both do not fit together, the piece of the text that is
next to the item stays with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ..modalities.documents import EncodedDocument

__all__ = ["Piece", "cut"]


class Piece(NamedTuple):
    """Positions start..stop of a document, on their own."""

    document: EncodedDocument
    start: int
    stop: int

    def __len__(self) -> int:  # type: ignore[override]
        return self.stop - self.start


class _Run(NamedTuple):
    """Neighbouring texts, or one item of another modality."""

    start: int
    stop: int
    modality: int


def cut(
    document: EncodedDocument, window: int, *, whole: Mapping[int, str], together: bool = True
) -> Iterator[Piece]:
    """The pieces of a document, in order, each of at most `window` positions.

    Args:
        whole: id -> name of the modalities whose items are never cut.
        together: whether a text stays with the item beside it; else pieces end between any two
            segments, as late as they can.

    Raises:
        ValueError: an item that is never cut does not fit into a window.
    """
    if len(document) <= window:
        yield Piece(document, 0, len(document))
        return
    segments = _segments(document)
    for start, stop, modality in segments:
        if modality in whole and stop - start > window:
            raise ValueError(
                f"an item of {whole[modality]} takes {stop - start} positions, but a window has "
                f"{window}, and it is never cut; choose a larger window, or options of "
                f"modalities.{whole[modality]} that make it shorter"
            )
    spans = _together(segments, window) if together else _between(segments, window)
    for start, stop in spans:
        yield Piece(document, start, stop)


def _segments(document: EncodedDocument) -> list[_Run]:
    ends = [*(np.flatnonzero(np.diff(document.segment_ids)) + 1), len(document)]
    starts = [0, *ends[:-1]]
    return [
        _Run(int(a), int(b), int(document.modality_ids[a:b].max()))
        for a, b in zip(starts, ends, strict=True)
    ]


def _between(segments: list[_Run], window: int) -> Iterator[tuple[int, int]]:
    start = last = 0
    for _, end, _ in segments:
        if end - start > window and last > start:
            yield start, last
            start = last
        while end - start > window:
            yield start, start + window
            start += window
        last = end
    if last > start:
        yield start, last


def _together(segments: list[_Run], window: int) -> Iterator[tuple[int, int]]:
    start = stop = 0
    for group in _groups(_runs(segments)):
        if group[-1].stop - start > window and stop > start:
            yield start, stop
            start = stop
        if group[-1].stop - start > window:
            for start, stop in _divided(group, window):
                if stop < group[-1].stop:
                    yield start, stop
        stop = group[-1].stop
    yield start, stop


def _runs(segments: list[_Run]) -> list[_Run]:
    """Texts in a row become one; a single token at either end, such as a document's begin and end,
    belongs to its neighbour."""
    first, *rest = segments
    if rest and first.modality == 0 and first.stop == 1:
        rest[0] = rest[0]._replace(start=0)
    else:
        rest = segments
    if len(rest) > 1 and rest[-1].modality == 0 and rest[-1].stop - rest[-1].start == 1:
        rest = [*rest[:-2], rest[-2]._replace(stop=rest[-1].stop)]
    runs: list[_Run] = []
    for run in rest:
        if runs and run.modality == runs[-1].modality == 0:
            runs[-1] = runs[-1]._replace(stop=run.stop)
        else:
            runs.append(run)
    return runs


def _groups(runs: list[_Run]) -> list[list[_Run]]:
    """What belongs together: items and the text in front of them, or behind them."""
    text_first = runs[0].modality == 0
    groups = [[runs[0]]]
    for before, run in pairwise(runs):
        if (run if text_first else before).modality == 0:
            groups.append([run])
        else:
            groups[-1].append(run)
    return groups


def _divided(group: list[_Run], window: int) -> Iterator[tuple[int, int]]:
    """One group that is too long."""
    start = stop = group[0].start
    first, *items = group
    if first.modality == 0 and items:
        item = items[0].stop - items[0].start
        # an item that must be cut anyway leaves three quarters of its first window to the text
        room = window - (item if item <= window else window // 4)
        head = max(first.start, first.stop - room)
        for at in range(first.start, head, window):
            yield at, min(at + window, head)
        start, stop, group = head, first.stop, items
    for run in group:
        if run.stop - start > window:
            fits = run.stop - run.start <= window
            if run.modality != 0 and fits and stop > start:
                yield start, stop
                start = run.start
            while run.stop - start > window:
                yield start, start + window
                start += window
        stop = run.stop
    yield start, stop
