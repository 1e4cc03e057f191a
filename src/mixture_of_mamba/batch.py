"""A batch of interleaved modalities, checked when it is built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from .seeding import whole_number

__all__ = ["Batch"]


class _RowEnds(NamedTuple):
    """Ends of the modalities' rows, with the ids they were counted from and these ids' version.

    A batch with other ids, or with ids that were written to since, does not use them.
    """

    ends: Tensor
    ids: Tensor
    version: int

    @classmethod
    def of(cls, ends: Tensor, ids: Tensor) -> _RowEnds:
        return cls(ends, ids, ids._version)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows of interleaved tokens; `b` windows of `t` positions.

    Attributes:
        modality_ids: (b, t) int64, index into the model's list of modalities.
        tokens: (b, t) int64, token id *inside the vocabulary of its own modality*; 0 where the
            modality is continuous.
        values: by name of a continuous modality, (p, dim) float32: the vectors at its `p`
            positions, in (b, t) order.
        document_ids: (b, t) int64; a change along t starts a new document. None: one per window.
        loss_mask: (b, t) bool, whether the token *at* this position counts as a target.
            None: all count.
        segment_ids: (b, t) int64, index of the segment (one image, one utterance, one stretch of
            text) that a position belongs to, distinct within the batch: an image has one noise
            level. None: each unbroken run of one modality in a document.
        seed: of the noise that continuous modalities get in the forward pass; a training loop sets
            one per step, so that variants see the same noise. None: torch's global generator.

    Raises:
        TypeError: what is no tensor, or one of another dtype; a seed that is no whole number.
        ValueError: shapes that do not fit together.

    A batch that `to` takes from the host to a device keeps its counts of modalities on the host
    (`row_ends`), where the choice of matrix products reads them without waiting for the device.
    """

    modality_ids: Tensor
    tokens: Tensor
    values: Mapping[str, Tensor] = field(default_factory=dict)
    document_ids: Tensor | None = None
    loss_mask: Tensor | None = None
    segment_ids: Tensor | None = None
    seed: int | None = None
    _row_ends: _RowEnds | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_tensor("modality_ids", self.modality_ids)
        shape = self.modality_ids.shape
        if len(shape) != 2:
            raise ValueError(f"modality_ids has shape {tuple(shape)}; (batch, time) is needed")
        for name, kinds in _DTYPES.items():
            tensor = getattr(self, name)
            if tensor is None and name not in ("tokens", "modality_ids"):
                continue
            _check_tensor(name, tensor)
            if tensor.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, but modality_ids has {tuple(shape)}; "
                    "every tensor of a batch is (batch, time)"
                )
            if tensor.dtype not in kinds:
                raise TypeError(f"{name} is {tensor.dtype}; {kinds[0]} is needed")
        if not isinstance(self.values, Mapping):
            raise TypeError(
                f"values is a {_kind(self.values)}; give a dict from the name of a continuous "
                "modality to its (p, dim) tensor"
            )
        for name, tensor in self.values.items():
            _check_tensor(f"values[{name!r}]", tensor)
            if not tensor.is_floating_point():
                raise TypeError(f"values[{name!r}] is {tensor.dtype}; torch.float32 is needed")
        if self.seed is not None:
            whole_number(self.seed)

    @property
    def shape(self) -> tuple[int, int]:
        """(b, t)."""
        b, t = self.modality_ids.shape
        return b, t

    @property
    def row_ends(self) -> Tensor | None:
        """Ends of the modalities' rows when these are sorted, (up to m,) int32 on the CPU; the
        modalities after its last entry have no rows. None where only the device knows: the batch
        was built there, or its ids were written to since."""
        known = self._row_ends
        if known is None or known.ids is not self.modality_ids:
            return None
        same = torch.compiler.is_compiling() or self.modality_ids._version == known.version
        return known.ends if same else None

    def to(self, device: torch.device | str | None, *, non_blocking: bool = False) -> Batch:
        """The same batch on a device; itself if it is there, or if `device` is None, as tensors
        have it.

        Raises:
            ValueError: a negative modality id.
        """
        kept = [x for n in _TENSORS if isinstance(x := getattr(self, n), Tensor)]
        if device is None or all(
            x.device == torch.device(device) for x in (*kept, *self.values.values())
        ):
            return self

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        ids = self.modality_ids.to(device, non_blocking=non_blocking)
        ends = self.row_ends
        if self.modality_ids.device.type == "cpu" and ids.device.type != "cpu":
            ends = _count_row_ends(self.modality_ids)
        return replace(
            self,
            modality_ids=ids,
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            values={k: v.to(device, non_blocking=non_blocking) for k, v in self.values.items()},
            document_ids=move(self.document_ids),
            loss_mask=move(self.loss_mask),
            segment_ids=move(self.segment_ids),
            _row_ends=None if ends is None else _RowEnds.of(ends, ids),
        )

    def check(self, names: Sequence[str], sizes: Sequence[int], discrete: Sequence[bool]) -> None:
        """Compare the batch to a model's modalities.

        Args:
            names, sizes, discrete: of each modality: its name, its vocabulary (discrete) or vector
                width (continuous), and which of the two it is.

        Raises:
            ValueError: a modality id, token id, or value array that the model cannot take.
        """
        n = len(names)
        ids = self.modality_ids
        if (wrong := _outside(ids, n)) is not None:
            raise ValueError(
                f"modality_ids contains {wrong}, but this model has {n} modalities (valid ids "
                f"0..{n - 1}: {', '.join(names)}); check the modality table of your data"
            )
        for m, (name, size) in enumerate(zip(names, sizes, strict=True)):
            here = ids == m
            if discrete[m]:
                self._check_tokens(name, size, self.tokens[here])
            else:
                self._check_values(name, size, int(here.sum()))

    def _check_tokens(self, name: str, size: int, tokens: Tensor) -> None:
        if (wrong := _outside(tokens, size)) is not None:
            raise ValueError(
                f"tokens of modality {name!r} contain {wrong}, but its vocabulary has {size} "
                f"entries (valid ids 0..{size - 1}); ids count within their own modality"
            )

    def _check_values(self, name: str, dim: int, count: int) -> None:
        values = self.values.get(name)
        if values is None:
            if count:
                raise ValueError(
                    f"the batch has {count} positions of the continuous modality {name!r}, but "
                    f"values has no {name!r}; give a ({count}, {dim}) float tensor"
                )
            return
        if values.shape != (count, dim):
            raise ValueError(
                f"values[{name!r}] has shape {tuple(values.shape)}, but the batch has {count} "
                f"positions of it and the model's vectors have {dim} entries: ({count}, {dim})"
            )
        if not torch.isfinite(values).all():
            raise ValueError(f"values[{name!r}] contains NaN or infinity; clean the latents")


_INTEGERS = (torch.int64, torch.int32)
_DTYPES = {
    "tokens": _INTEGERS,
    "modality_ids": _INTEGERS,
    "document_ids": _INTEGERS,
    "segment_ids": _INTEGERS,
    "loss_mask": (torch.bool,),
}


def _check_tensor(name: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {_kind(x)}; give a torch.Tensor (torch.as_tensor makes one)")


def _kind(x: object) -> str:
    """ "numpy.ndarray", "list", …"""
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _outside(ids: Tensor, size: int | None = None) -> int | None:
    """An id that is not in 0..size-1, or is negative; None: there is none."""
    if not ids.numel():
        return None
    low, high = (int(v) for v in torch.aminmax(ids))
    if size is not None and high >= size:
        return high
    return low if low < 0 else None


def _count_row_ends(modality_ids: Tensor) -> Tensor:
    if (wrong := _outside(modality_ids)) is not None:
        raise ValueError(f"modality_ids contains {wrong}; ids count from 0")
    return torch.bincount(modality_ids.flatten(), minlength=1).cumsum(0).to(torch.int32)


# Wrappers look into trees: for tensors to cast, to average the gradients of, to export.
_TENSORS = ("modality_ids", "tokens", "values", "document_ids", "loss_mask", "segment_ids")


def _flatten(batch: Batch) -> tuple[list[Any], int | None]:
    values = dict(batch.values)
    return [values if n == "values" else getattr(batch, n) for n in _TENSORS], batch.seed


def _unflatten(children: Iterable[Any], seed: int | None) -> Batch:
    """Without the checks: leaves may be anything. Nor are there counts: the ids may be others."""
    batch = object.__new__(Batch)
    vars(batch).update(zip(_TENSORS, children, strict=True), seed=seed)
    return batch


register_pytree_node(
    Batch,
    _flatten,
    _unflatten,
    serialized_type_name="mixture_of_mamba.Batch",
    to_dumpable_context=lambda seed: seed,
    from_dumpable_context=lambda seed: seed,
    flatten_with_keys_fn=lambda batch: (
        [(GetAttrKey(n), x) for n, x in zip(_TENSORS, _flatten(batch)[0], strict=True)],
        batch.seed,
    ),
)
# A saved program holds its example inputs; they are read back without running a pickle's code.
torch.serialization.add_safe_globals([Batch, (Batch, "mixture_of_mamba.data.batch.Batch")])
