"""Codecs without weights: a TokenizerSet of any kinds and sizes, for tests of what stands on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixture_of_mamba.modalities.codec import Codec
from mixture_of_mamba.modalities.image.files import IMAGE
from mixture_of_mamba.modalities.options import CodecOptions
from mixture_of_mamba.modalities.text import TextOptions, TextTokenizer
from mixture_of_mamba.modalities.tokenizer_set import TokenizerSet


class _Words(TextTokenizer):
    """A vocabulary whose words nobody needs."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.options = TextOptions()


class ToyCodec(Codec):
    """Any kind, size and length; its items are their own tokens."""

    codec = "toy"
    media = IMAGE
    Options = CodecOptions

    def __init__(self, kind: str, size: int, fixed_length: int | None = None) -> None:
        self.kind, self.size, self.fixed_length = kind, size, fixed_length
        self.options = CodecOptions()

    @classmethod
    def fit(
        cls, prepared: Sequence[Any], options: Any, *, seed: int, report: Callable[[str], None]
    ) -> ToyCodec:
        raise NotImplementedError

    def encode(self, prepared: Sequence[Any]) -> list[np.ndarray]:
        return list(prepared)

    def decode(self, tokens: Sequence[np.ndarray]) -> list[Any]:
        return list(tokens)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> ToyCodec:
        raise NotImplementedError


def toy_tokenizers(words: int, **codecs: ToyCodec) -> TokenizerSet:
    """Text of so many words, and codecs by name; special tokens begin at id `words`."""
    return TokenizerSet(_Words(words), codecs)
