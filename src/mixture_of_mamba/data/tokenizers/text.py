"""Text as byte-level BPE tokens (the `tokenizers` library)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixture_of_mamba.extras import needs

__all__ = ["Text"]

_FILE = "text.json"


class Text:
    """Strings <-> token ids 0..bpe-1; special tokens are the TokenizerSet's business.

    Every string can be encoded: unknown characters fall back to their bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.bpe = tokenizer.get_vocab_size()

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> Text:
        """Learns at most `vocabulary` tokens, at least the 256 bytes."""
        with needs("the text tokenizer", "train"):
            from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each string, int64."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.asarray(e.ids, np.int64) for e in encoded]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The string of token ids; ids of special tokens are left out."""
        plain = [int(i) for i in ids if 0 <= int(i) < self.bpe]
        return self._tokenizer.decode(plain, skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """Writes `text.json` in the format of the `tokenizers` library."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / _FILE))

    @classmethod
    def load(cls, folder: Path) -> Text:
        with needs("the text tokenizer", "train"):
            from tokenizers import Tokenizer
        return cls(Tokenizer.from_file(str(folder / _FILE)))
