"""Text, pictures and sound -> token sequences that a model can continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sequence import TokenSequence

if TYPE_CHECKING:
    from ..modalities.documents import Item
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Prompt", "encode_prompts"]

Prompt = Sequence[tuple[str, "Item"]]
"""Segments of a document: (modality, item as its medium reads it)."""


def encode_prompts(
    tokenizers: TokenizerSet, prompts: Sequence[Prompt], *, to: str | None
) -> list[TokenSequence]:
    """Documents that are open at the end.

    Args:
        tokenizers: of the model.
        prompts: segments of each document; none is fine, and means no context.
        to: a modality that is opened behind each prompt; None or "text" opens none.

    Raises:
        ValueError: a modality that the tokenizers lack, an empty text, or a picture or sound of a
            wrong shape; names the prompt.
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
        if to not in (None, "text"):
            sequence.append(tokenizers.text_id, tokenizers.begin[str(to)])
        sequences.append(sequence)
    return sequences
