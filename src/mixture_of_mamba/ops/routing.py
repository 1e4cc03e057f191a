"""Modality ids -> order, offsets and row index; built once per batch, used by every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import register_dataclass

__all__ = ["Routing", "RowIndex", "contiguous_rows"]


@dataclass(frozen=True)
class RowIndex:
    """Where the positions of a batch stand among its rows (`r = b * t`); what every op refers to.

    Attributes:
        rows: (b, t) int32, row of each position; None: row = position.
        modality: (b, t) int32, modality of each position; None where there is no routing.
        resets: (b, t) bool, True where a new document starts; None: nowhere.
        batch, length: `b` and `t`.
    """

    rows: Tensor | None
    modality: Tensor | None
    resets: Tensor | None
    batch: int
    length: int

    @property
    def arguments(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, int, int]:
        """The fields as arguments of an operator."""
        return self.rows, self.modality, self.resets, self.batch, self.length

    @property
    def shape(self) -> tuple[int, int]:
        """(b, t)."""
        return self.batch, self.length

    @property
    def size(self) -> int:
        """Number of rows `r`."""
        return self.batch * self.length

    def check(self, code: int) -> None:
        """Turn the code of a native kernel that reads this index into an error."""
        if code == 1:
            raise ValueError(
                f"the row index names a row outside 0..{self.size - 1}; use Routing.build"
            )
        if code == 2:
            raise ValueError("a modality is outside the rows of delta_bias; use Routing.build")

    def to_time(self, x: Tensor) -> Tensor:
        """(r, ...) in row order -> (b, t, ...)."""
        if self.rows is None:
            return x.view(self.batch, self.length, *x.shape[1:])
        return x[self.rows.long()]

    def to_rows(self, x: Tensor) -> Tensor:
        """(b, t, ...) -> (r, ...) in row order."""
        flat = x.reshape(self.size, *x.shape[2:])
        if self.rows is None:
            return flat
        return torch.zeros_like(flat).index_copy(0, self.rows.reshape(-1).long(), flat)


@dataclass(frozen=True, kw_only=True)
class Routing(RowIndex):
    """The row index of a batch whose rows are sorted by modality, and where each modality's end.

    Attributes:
        n_modalities: number of modalities `m`.
        order: (r,) int64, flat (b, t) position of each row; None when rows are positions.
        offsets: (m,) int32, end of each modality's rows, on the batch's device.
        host_offsets: the same on the CPU, where modalities at the end that have no rows may be
            missing; None when reading it would need a device synchronisation.
    """

    n_modalities: int
    modality: Tensor
    order: Tensor | None
    offsets: Tensor
    host_offsets: Tensor | None

    @classmethod
    def build(
        cls,
        modality_ids: Tensor,
        n_modalities: int,
        document_ids: Tensor | None = None,
        *,
        previous_document: Tensor | None = None,
        host_offsets: Tensor | None = None,
        check: bool | None = None,
    ) -> Routing:
        """Sort a batch by modality.

        Args:
            modality_ids: (b, t) integers in 0..n_modalities-1.
            document_ids: (b, t) integers; a change along t starts a new document.
            previous_document: (b,) the document that an incoming state belongs to; a first token of
                another document resets that state too.
            host_offsets: what the attribute of this name says, where the ids are on a device and
                the caller knows it (`Batch.row_ends`).
            check: verify the range of the ids; by default on the CPU only, where it costs no
                device synchronisation. In a graph the check is an operator, and names no id.

        Raises:
            ValueError: wrong shapes, or an id outside 0..n_modalities-1.
            TypeError: ids that are not integers.
        """
        if modality_ids.ndim != 2:
            raise ValueError(
                f"modality_ids has shape {tuple(modality_ids.shape)}, but (batch, time) is needed"
            )
        if modality_ids.dtype.is_floating_point or modality_ids.dtype == torch.bool:
            raise TypeError(f"modality_ids is {modality_ids.dtype}; integers are needed")
        batch, length = modality_ids.shape
        if check is None:
            check = modality_ids.device.type == "cpu"
        if check and torch.compiler.is_compiling():
            inside = (modality_ids >= 0) & (modality_ids < n_modalities)
            torch._assert_async(inside.all(), f"modality_ids has ids outside 0..{n_modalities - 1}")
        elif check and modality_ids.numel():
            check_range(modality_ids, n_modalities)
        flat = modality_ids.reshape(-1)
        order = rows = None
        if n_modalities > 1:
            order = torch.argsort(flat, stable=True)
            rows = torch.empty_like(order, dtype=torch.int32)
            rows[order] = torch.arange(flat.shape[0], dtype=torch.int32, device=flat.device)
            rows = rows.view(batch, length)
        bins = torch.arange(n_modalities, device=flat.device, dtype=flat.dtype)
        counts = (flat[None, :] == bins[:, None]).sum(1)
        offsets = counts.cumsum(0).to(torch.int32)
        return cls(
            n_modalities=n_modalities,
            batch=batch,
            length=length,
            order=order,
            rows=rows,
            modality=modality_ids.to(torch.int32),
            offsets=offsets,
            host_offsets=offsets if offsets.device.type == "cpu" else host_offsets,
            resets=document_starts(document_ids, modality_ids.shape, previous_document),
        )

    def to_rows(self, x: Tensor) -> Tensor:
        """(b, t, ...) -> (r, ...) in row order."""
        flat = x.reshape(self.size, *x.shape[2:])
        return flat if self.order is None else flat[self.order]


def check_range(modality_ids: Tensor, n_modalities: int) -> None:
    """Raise where an id is outside 0..n_modalities-1."""
    low, high = (int(v) for v in torch.aminmax(modality_ids))
    if low < 0 or high >= n_modalities:
        wrong = high if high >= n_modalities else low
        raise ValueError(
            f"modality_ids contains {wrong}, but there are {n_modalities} modalities "
            f"(valid ids 0..{n_modalities - 1}); check the modality table of your data"
        )


def document_starts(
    document_ids: Tensor | None, shape: torch.Size, previous: Tensor | None = None
) -> Tensor | None:
    """(b, t) bool, True where `document_ids` changes along t; the first token never resets by
    itself, unless `previous` (b,) names another document there."""
    if document_ids is None:
        return None
    if document_ids.shape != shape:
        raise ValueError(
            f"document_ids has shape {tuple(document_ids.shape)}, "
            f"but the batch is {tuple(shape)}; give one document id per token"
        )
    position = torch.arange(shape[1], device=document_ids.device)
    resets = (document_ids != document_ids.roll(1, 1)) & (position > 0)
    if previous is not None and shape[1]:
        resets[:, 0] = document_ids[:, 0] != previous
    return resets


def contiguous_rows(x: Tensor) -> Tensor:
    """Rows with contiguous channels; a copy where they are not (an expanded gradient, say)."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


register_dataclass(Routing, serialized_type_name="mixture_of_mamba.Routing")  # as a tree of tensors
