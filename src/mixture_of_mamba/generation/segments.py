"""A stream of generated tokens -> segments, and segments -> items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .loop import Event

if TYPE_CHECKING:
    from ..modalities.documents import Segment
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["decode_segments", "is_content", "split_segments", "truncated"]

Piece = tuple[str, np.ndarray]


def is_content(tokenizers: TokenizerSet, name: str, token: int) -> bool:
    """Whether a token of a discrete modality is part of an item: it neither opens nor ends one."""
    if name in tokenizers.end:
        return token != tokenizers.end[name]
    return token not in tokenizers.special  # of text, which has no end token


def split_segments(tokenizers: TokenizerSet, events: Sequence[Event]) -> list[Piece]:
    """Runs of one modality: (name, ids without begin and end, or values).

    Segments of a fixed length that are incomplete are omitted, and so are the broken cycle
    (Codec.cycle) at the end of one and a segment that has no whole cycle.
    """
    pieces: list[tuple[str, list[int] | np.ndarray]] = []
    open_ids: list[int] | None = None
    before = ""
    for event in events:
        name = event.modality
        if event.values is not None:
            pieces.append((name, event.values.numpy()))
            open_ids, before = None, ""
            continue
        if not is_content(tokenizers, name, event.token):
            open_ids, before = None, ""
            continue
        if open_ids is None or name != before:
            open_ids, before = [], name
            pieces.append((name, open_ids))
        open_ids.append(event.token)
    whole = []
    for name, ids in pieces:
        if cycle := tokenizers.cycle.get(name):
            ids = ids[: len(ids) - len(ids) % len(cycle)]
            if not len(ids):
                continue
        if len(ids) == tokenizers.fixed_length.get(name, len(ids)):
            whole.append((name, np.asarray(ids)))
    return whole


def truncated(
    tokenizers: TokenizerSet, events: Sequence[Event]
) -> tuple[str, int, int | None] | None:
    """The segment that a document broke off in and that is omitted: (name, tokens it has, tokens
    it needs, where those are fixed); None where it did not."""
    if not events:
        return None
    last = events[-1]
    text = tokenizers.names[tokenizers.text_id]
    opened = {token: name for name, token in tokenizers.begin.items()}
    if last.modality == text and last.token in opened:
        name = opened[last.token]
        return name, 0, tokenizers.fixed_length.get(name)
    needed = tokenizers.fixed_length.get(last.modality, 0)
    if last.values is not None:  # vectors come all at once
        return None
    length = 0
    while length < len(events) and events[-1 - length].modality == last.modality:
        length += 1
    return (last.modality, length, needed) if length < needed else None


def decode_segments(
    tokenizers: TokenizerSet, documents: Sequence[Sequence[Piece]]
) -> list[list[Segment]]:
    """Segments of many documents with their items; each modality is decoded in one call."""
    from ..modalities.documents import Segment

    content: dict[tuple[int, int], Any] = {}
    for name in tokenizers.names:
        where = [(i, j) for i, d in enumerate(documents) for j, p in enumerate(d) if p[0] == name]
        items = [documents[i][j][1] for i, j in where]
        decoded = tokenizers.codec(name).decode(items) if items else []
        content.update(zip(where, decoded, strict=True))
    return [
        [Segment(piece[0], content[i, j]) for j, piece in enumerate(document)]
        for i, document in enumerate(documents)
    ]
