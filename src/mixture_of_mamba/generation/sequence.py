"""Token sequences in several modalities, and how sequences of different lengths share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import Batch

if TYPE_CHECKING:
    from ..modalities.documents import EncodedDocument

__all__ = ["TokenSequence", "left_pad"]


@dataclass
class TokenSequence:
    """The tokens of one sequence so far.

    Attributes:
        modalities: modality id of each position.
        tokens: id inside that modality's vocabulary; 0 where it is continuous.
        values: by name of a continuous modality, the (p, dim) vectors of its stretches.
    """

    modalities: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    values: dict[str, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, document: EncodedDocument) -> TokenSequence:
        """The tokens of an encoded document."""
        values = {name: [torch.from_numpy(v)] for name, v in document.values.items()}
        return cls(document.modality_ids.tolist(), document.tokens.tolist(), values)

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, modality: int, *tokens: int) -> None:
        """Add discrete tokens."""
        self.modalities += [modality] * len(tokens)
        self.tokens += tokens

    def append_values(self, modality: int, name: str, values: Tensor) -> None:
        """Add (p, dim) vectors of a continuous modality."""
        self.append(modality, *[0] * len(values))
        self.values.setdefault(name, []).append(values)

    def join(self, other: TokenSequence) -> None:
        """Add all of another sequence."""
        self.modalities += other.modalities
        self.tokens += other.tokens
        for name, stretches in other.values.items():
            self.values.setdefault(name, []).extend(stretches)

    def copy(self) -> TokenSequence:
        """The same tokens; adding to one leaves the other."""
        same = TokenSequence()
        same.join(self)
        return same


def left_pad(sequences: Sequence[TokenSequence]) -> Batch:
    """One sequence per row, ends aligned: `b` sequences, `t` the longest.

    The padding is a document of its own in front of the sequence, so that convolution and scan
    start from zero at the sequence's first token.

    Raises:
        ValueError: no sequence, or an empty one.
    """
    if not sequences or not all(len(s) for s in sequences):
        raise ValueError("a prompt is empty; give at least one token, such as <document>")
    longest = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), longest, dtype=torch.int64)
    modality_ids, document_ids = torch.zeros_like(tokens), torch.zeros_like(tokens)
    modality_ids.fill_(sequences[0].modalities[0])  # a sequence starts with a discrete token
    for row, sequence in enumerate(sequences):
        start = longest - len(sequence)
        tokens[row, start:] = torch.tensor(sequence.tokens)
        modality_ids[row, start:] = torch.tensor(sequence.modalities)
        document_ids[row, start:] = 1
    even = all(len(s) == longest for s in sequences)
    return Batch(
        modality_ids=modality_ids,
        tokens=tokens,
        document_ids=None if even else document_ids,
        values=_values(sequences),
    )


def _values(sequences: Sequence[TokenSequence]) -> dict[str, Tensor]:
    stretches: dict[str, list[Tensor]] = {}
    for sequence in sequences:
        for name, values in sequence.values.items():
            stretches.setdefault(name, []).extend(values)
    return {name: torch.cat(values) for name, values in stretches.items()}
