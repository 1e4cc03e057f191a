"""Packed windows of one split: fixed-size arrays on disk, batches in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from ..batch import Batch

__all__ = ["PackedWindows"]


class PackedWindows:
    """`n` windows of `w` positions.

    Attributes:
        names: the modalities in the order of their ids.
        modality_ids: (n, w) uint8.
        tokens: (n, w) int32.
        document_ids, segment_ids: (n, w) int32, counted from 0 in every window.
        loss_mask: (n, w) bool; false at the first position of a document, which nothing announces,
            and at padding.
        padding: positions that are filled up with nothing, over all windows.
        values: by name of a continuous modality, all its vectors (p, dim) float16 in window order.
        value_ends: by name, (n + 1,) int64: window i has the rows value_ends[i]:value_ends[i + 1].
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        modality_ids: np.ndarray,
        tokens: np.ndarray,
        document_ids: np.ndarray,
        segment_ids: np.ndarray,
        loss_mask: np.ndarray,
        padding: int,
        values: dict[str, np.ndarray] | None = None,
        value_ends: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.names = list(names)
        self.modality_ids = modality_ids
        self.tokens = tokens
        self.document_ids = document_ids
        self.segment_ids = segment_ids
        self.loss_mask = loss_mask
        self.padding = padding
        self.values = values or {}
        self.value_ends = value_ends or {}

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def window(self) -> int:
        """Positions in a window."""
        return self.tokens.shape[1]

    def batch(self, indices: Sequence[int] | np.ndarray, *, seed: int | None = None) -> Batch:
        """The windows of `indices` as tensors; segments are numbered through the batch, and `seed`
        is the batch's."""
        rows = np.asarray(indices, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(
                f"windows {int(rows.min())}..{int(rows.max())} were asked for; there are "
                f"{len(self)} (0..{len(self) - 1})"
            )
        segments = self.segment_ids[rows].astype(np.int64)
        if len(rows):
            before = np.cumsum(segments.max(1) + 1) - (segments.max(1) + 1)
            segments += before[:, None]

        def wide(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array[rows].astype(np.int64))

        return Batch(
            modality_ids=wide(self.modality_ids),
            tokens=wide(self.tokens),
            values={name: self._values(name, rows) for name in self.values},
            document_ids=wide(self.document_ids),
            segment_ids=torch.from_numpy(segments),
            loss_mask=torch.from_numpy(self.loss_mask[rows]),
            seed=seed,
        )

    def _values(self, name: str, rows: np.ndarray) -> torch.Tensor:
        stored, ends = self.values[name], self.value_ends[name]
        parts = [stored[ends[i] : ends[i + 1]] for i in rows] or [stored[:0]]
        return torch.from_numpy(np.concatenate(parts).astype(np.float32))

    def tokens_by_modality(self) -> dict[str, int]:
        """Positions of each modality, padding left out."""
        counts = np.bincount(self.modality_ids.ravel(), minlength=len(self.names))
        counts[0] -= self.padding
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    def save(self, path: Path) -> None:
        """One safetensors file."""
        arrays = {
            "modality_ids": self.modality_ids,
            "tokens": self.tokens,
            "document_ids": self.document_ids,
            "segment_ids": self.segment_ids,
            "loss_mask": self.loss_mask,
        }
        arrays |= {f"values.{name}": v for name, v in self.values.items()}
        arrays |= {f"value_ends.{name}": v for name, v in self.value_ends.items()}
        about = json.dumps({"names": self.names, "padding": self.padding})
        # one entry: safetensors writes several in an order that differs from process to process
        save_file(arrays, path, metadata={"about": about})

    @classmethod
    def load(cls, path: Path) -> PackedWindows:
        """What `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
        grouped: dict[str, dict[str, np.ndarray]] = {"values": {}, "value_ends": {}}
        for key in [k for k in arrays if "." in k]:
            group, name = key.split(".", 1)
            grouped[group][name] = arrays.pop(key)
        return cls(
            names=about["names"],
            padding=about["padding"],
            values=grouped["values"],
            value_ends=grouped["value_ends"],
            **arrays,
        )
