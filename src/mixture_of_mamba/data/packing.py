"""Documents into windows of equal length.

Documents with images or speech stay whole wherever they fit: they go into windows first, the
largest that still fits next; `cutting` divides longer ones. Real text is fluid: it fills what is
left of those windows to the last position, and then windows of its own; it may be cut anywhere.
Only where no text is left, positions are padded (with text token 0, outside the loss).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from ..modalities.documents import EncodedDocument
from .cutting import Piece, cut
from .windows import PackedWindows

__all__ = ["pack"]

LOOK_AHEAD = 64
"""Documents among which the largest that fits is looked for."""


def pack(
    documents: Sequence[EncodedDocument],
    text: Sequence[EncodedDocument],
    *,
    names: Sequence[str],
    window: int,
    seed: int,
    text_fraction: float | None = None,
    whole: Collection[str] = (),
    together: bool = True,
) -> PackedWindows:
    """Packs documents in an order drawn from `seed`.

    Args:
        documents: kept whole where they fit; longer ones are cut as `cutting.cut` says.
        text: text-only documents, cut where a window ends.
        names: the modalities in the order of their ids.
        window: positions in a window.
        text_fraction: repeats or leaves out text so that it has this share of all tokens.
            None: every text once.
        whole: modalities whose items are never cut, beside the continuous ones.
        together: whether a text stays with the item beside it where a document is cut.

    Raises:
        ValueError: an item that is never cut does not fit into a window.
    """
    rng = np.random.default_rng([seed, 19])
    order = rng.permutation(len(documents))
    uncut = {names.index(name) for name in whole}
    pieces: list[Piece] = []
    for i in order:
        continuous = {names.index(name) for name in documents[i].values}
        pieces += cut(
            documents[i], window, whole={m: names[m] for m in uncut | continuous}, together=together
        )
    if text_fraction is None or not pieces:
        budget = sum(map(len, text))
    else:
        budget = int(sum(map(len, pieces)) * text_fraction / (1 - text_fraction))
    stream = _TextStream(text, budget, rng)
    windows = []
    for filled in _best_fit(pieces, window):
        filled.extend(stream.take(window - sum(map(len, filled))))
        windows.append(filled)
    while stream.left >= window or (stream.left and not pieces):
        windows.append(stream.take(window))
    return _layout([windows[i] for i in rng.permutation(len(windows))], names, window)


class _TextStream:
    """Text documents in shuffled passes, up to `left` tokens."""

    def __init__(
        self, text: Sequence[EncodedDocument], budget: int, rng: np.random.Generator
    ) -> None:
        self.left = budget if text else 0
        self._rest = self._endless(text, rng)
        self._now: Piece | None = None

    @staticmethod
    def _endless(text: Sequence[EncodedDocument], rng: np.random.Generator) -> Iterator[Piece]:
        while True:
            for i in rng.permutation(len(text)):
                yield Piece(text[i], 0, len(text[i]))

    def take(self, count: int) -> list[Piece]:
        """Pieces of together `count` tokens, or fewer where the budget ends."""
        pieces = []
        count = min(count, self.left)
        self.left -= count
        while count > 0:
            piece = self._now if self._now is not None else next(self._rest)
            stop = min(piece.stop, piece.start + count)
            pieces.append(Piece(piece.document, piece.start, stop))
            count -= stop - piece.start
            self._now = Piece(piece.document, stop, piece.stop) if stop < piece.stop else None
        return pieces


def _best_fit(pieces: list[Piece], window: int) -> Iterator[list[Piece]]:
    pool: list[Piece] = []
    rest = iter(pieces)
    while True:
        pool.extend(piece for _, piece in zip(range(LOOK_AHEAD - len(pool)), rest, strict=False))
        if not pool:
            return
        filled = [pool.pop(0)]
        room = window - len(filled[0])
        while fitting := [i for i, piece in enumerate(pool) if len(piece) <= room]:
            filled.append(pool.pop(max(fitting, key=lambda i: (len(pool[i]), -i))))
            room -= len(filled[-1])
        yield filled


def _layout(windows: list[list[Piece]], names: Sequence[str], window: int) -> PackedWindows:
    count = len(windows)
    modality_ids = np.zeros((count, window), np.uint8)
    tokens, document_ids, segment_ids = (np.zeros((count, window), np.int32) for _ in range(3))
    loss_mask = np.zeros((count, window), bool)
    padding = 0
    values: dict[str, list[np.ndarray]] = {}
    value_counts: dict[str, np.ndarray] = {}
    for w, pieces in enumerate(windows):
        at, segment = 0, 0
        for number, (document, start, stop) in enumerate(pieces):
            here = slice(at, at + stop - start)
            modality_ids[w, here] = document.modality_ids[start:stop]
            tokens[w, here] = document.tokens[start:stop]
            document_ids[w, here] = number
            own = document.segment_ids[start:stop]
            segment_ids[w, here] = own - own[0] + segment
            segment += int(own[-1] - own[0]) + 1
            loss_mask[w, at + 1 : here.stop] = True
            at = here.stop
            for name, v in document.values.items():
                m = list(names).index(name)
                first = int((document.modality_ids[:start] == m).sum())
                many = int((document.modality_ids[start:stop] == m).sum())
                values.setdefault(name, []).append(v[first : first + many].astype(np.float16))
                value_counts.setdefault(name, np.zeros(count, np.int64))[w] += many
        document_ids[w, at:] = len(pieces)
        segment_ids[w, at:] = segment
        padding += window - at
    return PackedWindows(
        names=names,
        modality_ids=modality_ids,
        tokens=tokens,
        document_ids=document_ids,
        segment_ids=segment_ids,
        loss_mask=loss_mask,
        padding=padding,
        values={name: np.concatenate(v) for name, v in values.items()},
        value_ends={
            name: np.concatenate([[0], np.cumsum(c)]).astype(np.int64)
            for name, c in value_counts.items()
        },
    )
