"""Text, pictures and sound -> token sequences that a model can continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..modalities.image.files import fit_image
from .sequence import TokenSequence

if TYPE_CHECKING:
    from ..modalities.documents import Content
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["Prompt", "encode_prompts"]

Prompt = Sequence[tuple[str, "Content"]]
"""Segments of a document: (modality, str | (h, w, 3) uint8 picture | (waveform, rate))."""


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
    names = [name for name, *_ in tokenizers.modalities]
    groups: dict[str, list[tuple[int, int, Any]]] = {}
    for i, prompt in enumerate(prompts):
        for j, (name, content) in enumerate(prompt):
            if name not in names:
                raise ValueError(
                    f"prompt {i} has a segment of modality {name!r}, which this model lacks; "
                    f"it has {', '.join(names)}"
                )
            groups.setdefault(name, []).append((i, j, _checked(tokenizers, name, content, i)))
    items: dict[tuple[int, int], tuple[str, np.ndarray]] = {}
    for name, entries in groups.items():
        tokenizer = tokenizers.text if name == "text" else tokenizers.others[name]
        encoded = tokenizer.encode([content for *_, content in entries])
        for (i, j, _), item in zip(entries, encoded, strict=True):
            items[i, j] = (name, item)
    sequences = []
    for i, prompt in enumerate(prompts):
        document = tokenizers.assemble([items[i, j] for j in range(len(prompt))], close=False)
        sequence = TokenSequence.of(document)
        if to not in (None, "text"):
            sequence.append(names.index("text"), tokenizers.begin(str(to)))
        sequences.append(sequence)
    return sequences


def _checked(tokenizers: TokenizerSet, name: str, content: Any, i: int) -> Any:
    """The content, a picture brought to the tokenizer's size."""
    if name == "text":
        if not isinstance(content, str):
            raise ValueError(f"the text of prompt {i} is {type(content).__name__}; give a string")
        if not content.strip():
            raise ValueError(f"the text of prompt {i} is empty; say what is wanted")
        return content
    if isinstance(content, tuple):
        wave, rate = content
        if np.asarray(wave).ndim != 1 or not len(wave) or rate <= 0:
            raise ValueError(
                f"the {name} of prompt {i} has shape {np.asarray(wave).shape} and rate {rate}; "
                "give (samples,), not empty, and samples a second"
            )
        return np.asarray(wave), int(rate)
    pixels = getattr(tokenizers.others[name], "pixels", None)
    picture = np.asarray(content)
    if pixels is None:
        raise ValueError(
            f"the {name} of prompt {i} is {type(content).__name__}; give (waveform, rate)"
        )
    if picture.ndim != 3 or picture.shape[-1] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"the {name} of prompt {i} is {picture.dtype} of shape {picture.shape}; "
            "give (height, width, 3) uint8"
        )
    return fit_image(picture, pixels)
