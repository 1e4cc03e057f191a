"""Documents: what they are before and after the tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ..batch import Batch

__all__ = ["EncodedDocument", "Item", "Segment"]

#: What a medium reads from a file, such as str, (h, w, 3) uint8 or (waveform, samples a second).
Item = Any


class Segment(NamedTuple):
    """One stretch of one modality: the modality's name and an item of it."""

    modality: str
    content: Item


@dataclass(frozen=True)
class EncodedDocument:
    """A document as tokens; `t` positions.

    Attributes:
        modality_ids: (t,) uint8.
        tokens: (t,) int32, ids inside the vocabulary of their own modality; 0 where continuous.
        segment_ids: (t,) int32 from 0. The begin and end token of an image or an utterance belong
            to its segment.
        values: by name of a continuous modality, (p, dim) float32 in order of position.
    """

    modality_ids: np.ndarray
    tokens: np.ndarray
    segment_ids: np.ndarray
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self) -> Batch:
        """The document as a batch of one, every position but the first a target."""
        mask = torch.ones(1, len(self), dtype=torch.bool)
        mask[:, :1] = False

        def row(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array.astype(np.int64))[None]

        return Batch(
            modality_ids=row(self.modality_ids),
            tokens=row(self.tokens),
            values={name: torch.from_numpy(v) for name, v in self.values.items()},
            document_ids=torch.zeros(1, len(self), dtype=torch.int64),
            segment_ids=row(self.segment_ids),
            loss_mask=mask,
        )
