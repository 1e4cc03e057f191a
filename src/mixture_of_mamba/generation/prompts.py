"""Items of a document so far -> token sequences that a model can continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sequence import TokenSequence

if TYPE_CHECKING:
    from ..modalities.documents import Item
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Prompt", "encode_prompts", "prompts_of"]

Prompt = Sequence[tuple[str, "Item"]]
"""Segments of a document: (modality, item as its medium reads it)."""


def prompts_of(columns: Mapping[str, Sequence[Any]]) -> list[Prompt]:
    """Prompts from their items by modality; in each prompt in the order of the mapping.

    Raises:
        TypeError: one string instead of a list.
        ValueError: lists of different lengths.
    """
    for name, column in columns.items():
        if isinstance(column, str):
            raise TypeError(f"give a list of {name}s, not one string")
    lengths = [len(column) for column in columns.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"the prompts have {lengths} parts; give equally many of each")
    return [list(zip(columns, items, strict=True)) for items in zip(*columns.values(), strict=True)]


def encode_prompts(
    tokenizers: TokenizerSet, prompts: Sequence[Prompt], *, to: str | None
) -> list[TokenSequence]:
    """Documents that are open at the end.

    Args:
        tokenizers: of the model.
        prompts: segments of each document; none is fine, and means no context.
        to: a modality that is opened behind each prompt; None opens none, and text needs none.

    Raises:
        ValueError: a modality that the tokenizers lack, or an item that its medium refuses; names
            the prompt.
    """
    groups: dict[str, list[tuple[int, int, Any]]] = {}
    for i, prompt in enumerate(prompts):
        for j, (name, content) in enumerate(prompt):
            if name not in tokenizers.names:
                raise ValueError(
                    f"prompt {i} has a segment of modality {name!r}, which this model lacks; "
                    f"it has {', '.join(tokenizers.names)}"
                )
            codec = tokenizers.codec(name)
            item = codec.media.check(content, f"the {name} of prompt {i}")
            groups.setdefault(name, []).append((i, j, codec.prepare(item, codec.options)))
    items: dict[tuple[int, int], tuple[str, np.ndarray]] = {}
    for name, entries in groups.items():
        encoded = tokenizers.codec(name).encode([content for *_, content in entries])
        for (i, j, _), item in zip(entries, encoded, strict=True):
            items[i, j] = (name, item)
    sequences = []
    for i, prompt in enumerate(prompts):
        document = tokenizers.assemble([items[i, j] for j in range(len(prompt))], close=False)
        sequence = TokenSequence.of(document)
        if to in tokenizers.begin:
            sequence.append(tokenizers.text_id, tokenizers.begin[to])
        sequences.append(sequence)
    return sequences
