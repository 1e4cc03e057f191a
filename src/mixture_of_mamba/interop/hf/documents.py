"""Document boundaries of a call, from position_ids, document_ids, seq_idx or cu_seq_lens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = [
    "document_starts",
    "last_document",
    "last_real",
    "packed_documents",
]

#: What collators for packed rows give besides position_ids and document_ids.
_PACKING_KEYWORDS = ("seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def last_real(real: Tensor) -> Tensor:
    """(b, t) bool -> (b, t) int64, the last True at or before each position; -1 where none is."""
    positions = torch.arange(real.shape[1], device=real.device)
    return torch.where(real, positions, -1).cummax(1).values


def packed_documents(kwargs: dict[str, Any], shape: torch.Size) -> Tensor | None:
    """(b, t) document of each token from `seq_idx` or `cu_seq_lens_q`, taken out of `kwargs`.

    Raises:
        ValueError: shapes that do not fit, or lengths of queries and keys that differ.
    """
    given = {name: kwargs.pop(name, None) for name in _PACKING_KEYWORDS}
    seq_idx, ends, keys = given["seq_idx"], given["cu_seq_lens_q"], given["cu_seq_lens_k"]
    if seq_idx is not None:
        return _per_token(seq_idx, shape, "seq_idx")
    ends = keys if ends is None else ends
    if ends is None:
        return None
    if keys is not None and keys is not ends and not torch.equal(keys, ends):
        raise ValueError("cu_seq_lens_q and cu_seq_lens_k differ; one sequence has one of them")
    batch, length = shape
    if batch != 1 or ends.ndim != 1 or int(ends[-1]) != length:
        raise ValueError(
            f"cu_seq_lens_q ends at {ends.reshape(-1)[-1:].tolist()}, but the batch is "
            f"{batch} x {length}; one row of all tokens is needed, or document_ids"
        )
    positions = torch.arange(length, device=ends.device)
    return torch.bucketize(positions, ends[1:].to(positions.dtype), right=True)[None]


def document_starts(
    shape: torch.Size,
    *,
    real: Tensor | None,
    document_ids: Tensor | None,
    position_ids: Tensor | None,
    before: Tensor | None,
    continues: bool,
) -> Tensor | None:
    """(b, t) bool, True at the first token of every document; None if nothing names documents.

    Padding is passed over: a token is compared with the one before it that is none.

    Args:
        shape: (b, t) of the tokens.
        real: (b, t) bool, False at padding.
        document_ids: (b, t); another id than the token before starts a document.
        position_ids: (b, t) or (1, t); a position that does not follow the one before starts a
            document. Positions may count padding or leave it out.
        before: (b,) document of the state that is continued, where known.
        continues: whether there is such a state; then position 0 starts a document too.
    """
    if document_ids is None and position_ids is None:
        return None
    given = position_ids if document_ids is None else document_ids
    assert given is not None
    here = torch.arange(shape[1], device=given.device).expand(shape)
    if real is None:
        previous = here - 1
    else:
        previous = torch.cat([here.new_full((shape[0], 1), -1), last_real(real)[:, :-1]], 1)
    first, at = previous < 0, previous.clamp(min=0)
    starts = torch.zeros(shape, dtype=torch.bool, device=given.device)
    if document_ids is not None:
        ids = _per_token(document_ids, shape, "document_ids")
        starts |= ~first & (ids != ids.gather(1, at))
        if before is not None:
            starts |= first & (ids != before[:, None])
    if position_ids is not None:
        positions = _per_token(position_ids, shape, "position_ids")
        step = positions - positions.gather(1, at)
        starts |= ~first & (step != 1) & (step != here - previous)
        if continues:
            starts |= first & (positions == 0)
    return starts if real is None else starts & real


def _per_token(ids: Tensor, shape: torch.Size, name: str) -> Tensor:
    if ids.ndim != 2 or ids.shape[1] != shape[1] or ids.shape[0] not in (1, shape[0]):
        raise ValueError(
            f"{name} has shape {tuple(ids.shape)}, but the batch is {tuple(shape)}; "
            "give one number per token"
        )
    return ids.long().expand(shape)


def last_document(ids: Tensor, real: Tensor | None, kept: dict[str, Tensor]) -> Tensor:
    """(b,) document of the last real token; that of the state before where the call has none.

    Args:
        ids: (b, t) documents of the tokens.
        real: (b, t) False at padding; None without padding.
        kept: what the cache keeps besides states.
    """
    if real is None:
        return ids[:, -1].long()
    last = last_real(real)[:, -1:]
    found = ids.long().gather(1, last.clamp(min=0))[:, 0]
    return torch.where(last[:, 0] >= 0, found, kept.get("document", found))
