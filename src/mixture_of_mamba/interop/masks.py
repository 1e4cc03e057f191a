"""Converts the modality masks of the official release to modality ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["modality_ids_from"]


def modality_ids_from(
    masks: Tensor | Sequence[Tensor] | None,
    *,
    n_modalities: int,
    batch: int,
    length: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """(b, t) int64 modality ids from any accepted form.

    Args:
        masks: one of
            None: every token is of modality 0;
            bool (m, b*t) or (m, b, t): row i marks the tokens of modality i;
            a list of m such rows; a row may also hold the flat int64 positions of its tokens;
            integers (b, t): the ids themselves.
        n_modalities: `m`.
        batch, length: `b` and `t`.

    A token that several rows mark belongs to the first of them, as in the official code.

    Raises:
        ValueError: another shape, a token that no row marks, an id outside 0..m-1.
        TypeError: neither bool nor integers.
    """
    if masks is None:
        return torch.zeros(batch, length, dtype=torch.int64, device=device)
    if not isinstance(masks, Tensor):
        rows = [_row(row, i, batch * length) for i, row in enumerate(masks)]
        if len(rows) != n_modalities:
            raise ValueError(
                f"modality_masks has {len(rows)} rows, but the module has {n_modalities} modalities"
                " (args.n_modalities); give one row per modality"
            )
        marks = torch.stack(rows)
    elif masks.dtype == torch.bool:
        if masks.numel() != n_modalities * batch * length or masks.shape[0] != n_modalities:
            raise ValueError(
                f"modality_masks has shape {tuple(masks.shape)}; a bool mask for {n_modalities} "
                f"modalities (args.n_modalities) and {batch} x {length} tokens is "
                f"({n_modalities}, {batch * length})"
            )
        marks = masks.reshape(n_modalities, batch * length)
    else:
        return _ids(masks, n_modalities, batch, length)
    if not bool(marks.any(0).all()):
        lost = int((~marks.any(0)).nonzero()[0, 0])
        raise ValueError(
            f"{int((~marks.any(0)).sum())} tokens are of no modality, the first is batch "
            f"{lost // length}, time {lost % length}; mark every token in one row"
        )
    return marks.to(torch.uint8).argmax(0).view(batch, length)


def _row(row: Tensor, index: int, count: int) -> Tensor:
    """One row of a list as (b*t,) bool."""
    if row.dtype == torch.bool:
        if row.numel() != count:
            raise ValueError(
                f"row {index} of modality_masks has {row.numel()} entries; {count} are needed, "
                "one per token"
            )
        return row.reshape(-1)
    if row.is_floating_point():
        raise TypeError(f"row {index} of modality_masks is {row.dtype}; bool or int64 is needed")
    if row.numel() and not 0 <= int(row.min()) <= int(row.max()) < count:
        raise ValueError(f"row {index} of modality_masks holds positions outside 0..{count - 1}")
    marks = torch.zeros(count, dtype=torch.bool, device=row.device)
    marks[row.reshape(-1).long()] = True
    return marks


def _ids(ids: Tensor, n_modalities: int, batch: int, length: int) -> Tensor:
    if ids.is_floating_point():
        raise TypeError(f"modality_masks is {ids.dtype}; give bool masks or integer ids")
    if ids.shape != (batch, length):
        raise ValueError(
            f"modality_masks holds integers of shape {tuple(ids.shape)}; modality ids are "
            f"({batch}, {length}), masks are bool"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < n_modalities:
        raise ValueError(
            f"modality ids reach {int(ids.min())}..{int(ids.max())}, but the module has "
            f"{n_modalities} modalities (args.n_modalities): valid ids are 0..{n_modalities - 1}"
        )
    return ids.long()
