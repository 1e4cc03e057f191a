"""Text as byte-level BPE tokens (the `tokenizers` library)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..extras import needs
from .codec import Codec
from .input_checks import check_text
from .media import TEXT
from .options import LEAST_VOCABULARY, CodecOptions, at_least
from .text_files import read_tokenizer, tokenizer_files

__all__ = ["TextOptions", "TextTokenizer", "fill_up"]

_FILE = "text.json"
_UNUSUAL = "\N{OLD PERSIAN SIGN AURAMAZDAA}"


@dataclass(frozen=True, kw_only=True)
class TextOptions(CodecOptions):
    """Of `bpe`, byte-level BPE tokens."""

    training: ClassVar[tuple[str, ...]] = ("tokenizer",)
    paths: ClassVar[tuple[str, ...]] = ("tokenizer",)

    vocabulary: int = 1024
    """Entries of the text vocabulary, tokens and special tokens together; at least as many where
    `tokenizer` brings its own."""

    tokenizer: str | None = None
    """A tokenizer.json, the folder of a pretrained model's tokenizer, or the model's id on the
    Hugging Face hub. None: train a tokenizer on this data."""

    def __post_init__(self) -> None:
        at_least("vocabulary", self.vocabulary, LEAST_VOCABULARY)

    def named_files(self) -> dict[str, list[Path]]:
        """The tokenizer's files alone, not the model's beside them."""
        return {} if self.tokenizer is None else {"tokenizer": tokenizer_files(self.tokenizer)}

    def check_files(self) -> None:
        try:
            self.named_files()
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"tokenizer: {error}") from error


class TextTokenizer(Codec):
    """Strings <-> token ids 0..size-1; the special tokens behind them belong to the TokenizerSet.

    A trained one can encode every string: unknown characters fall back to their bytes. A pretrained
    one may have a token for what it does not know (`unknown`). The name of a control token in a
    text, such as `<|endoftext|>`, is text.
    """

    codec = "bpe"
    media = TEXT
    Options = TextOptions
    kind = "discrete"
    fixed_length = None

    def __init__(self, tokenizer: Any, options: TextOptions | None = None) -> None:
        # What a foreign file may bring beside its vocabulary: texts cut or filled up to a length,
        # merges left out at random, and names of control tokens read as these.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        if getattr(tokenizer.model, "dropout", None):
            tokenizer.model.dropout = None
        self._tokenizer = tokenizer
        self.options = options or TextOptions()
        self.size = tokenizer.get_vocab_size()

    @classmethod
    def fit(
        cls,
        prepared: Sequence[str],
        options: TextOptions,
        *,
        seed: int,
        report: Callable[[str], None],
        special: int = 0,
    ) -> TextTokenizer:
        """A tokenizer trained on texts, or the one that `options.tokenizer` names.

        Args:
            special: entries of the vocabulary that special tokens take.
        """
        size = options.vocabulary - special
        if options.tokenizer is not None:
            text = cls.pretrained(options.tokenizer, size)
            report(f"text tokenizer: {text.size} tokens of {options.tokenizer}")
        else:
            text = cls.train(prepared, size)
            report(f"text tokenizer: {text.size} byte-level BPE tokens")
        text.options = options
        return text

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> TextTokenizer:
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

    @classmethod
    def pretrained(cls, given: str | Path, least: int = 0) -> TextTokenizer:
        """The tokenizer of a pretrained model.

        Args:
            given: a tokenizer.json, a folder or a hub id; see `read_tokenizer`.
            least: tokens at least; a model's vocabulary is often padded, and what stands behind it
                must not take the padding's ids. The missing ones are called `<unused-ID>`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no tokenizer, its ids have gaps, or it drops what it does not know.
        """
        tokenizer, file = read_tokenizer(given)
        ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
        if ids != list(range(len(ids))):
            raise ValueError(
                f"{file} has {len(ids)} tokens, but ids up to {ids[-1]}; leave no gaps"
            )
        fill_up(tokenizer, least)
        text = cls(tokenizer)
        try:
            kept = text.unknown is not None or len(text.encode([_UNUSUAL])[0])
        except Exception as error:
            raise ValueError(f"{file} cannot encode {_UNUSUAL!r}: {error}") from error
        if not kept:
            raise ValueError(
                f"{file} drops characters that it does not know ({_UNUSUAL!r} for one); give a "
                "tokenizer that falls back to bytes, or that has a token for the unknown"
            )
        return text

    @cached_property
    def unknown(self) -> int | None:
        """Id of the token that stands for what is not known; None: there is none."""
        model = json.loads(self._tokenizer.to_str())["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        name = model.get("unk_token")
        found = self._tokenizer.token_to_id(name) if name else None
        return None if found is None else int(found)

    def vocabulary(self) -> dict[str, int]:
        """Ids of all tokens."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def encode(self, prepared: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each string, int64.

        Raises:
            ValueError: a string with lone surrogates.
        """
        plain = [check_text(text) for text in prepared]
        encoded = self._tokenizer.encode_batch(plain, add_special_tokens=False)
        return [np.asarray(e.ids, np.int64) for e in encoded]

    def decode(self, tokens: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        """The strings of token ids; ids of special tokens are skipped."""
        return [
            self._tokenizer.decode(
                [int(i) for i in ids if 0 <= int(i) < self.size], skip_special_tokens=False
            )
            for ids in tokens
        ]

    def save(self, folder: Path) -> None:
        """Writes `text.json` in the format of the `tokenizers` library."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / _FILE))

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        with needs("the text tokenizer", "train"):
            from tokenizers import Tokenizer
        return cls(Tokenizer.from_file(str(folder / _FILE)))


def fill_up(tokenizer: Any, size: int) -> None:
    """Give a `tokenizers.Tokenizer` the ids up to `size` that a padded vocabulary has and it lacks;
    they are called `<unused-ID>`."""
    count = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    tokenizer.add_special_tokens([f"<unused-{i}>" for i in range(count, size)])
