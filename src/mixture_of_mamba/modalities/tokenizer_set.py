"""All tokenizers of a setting: documents to tokens and back.

Ids count inside their own modality. The text vocabulary is the BPE tokens, then `<document>`,
`</document>`, then for every other modality its begin token, followed by its end token where the
modality is continuous. A discrete modality other than text has its end token as its own last id.
A document is `<document>`, segments, `</document>`; text stands bare, everything else stands
between its begin and its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import filling, read_json, verify
from .codec import Codec
from .documents import Content, EncodedDocument, Segment
from .options import LEAST_VOCABULARY, CodecOptions
from .registry import codec_class, name_of
from .text import TextTokenizer

__all__ = ["TokenizerSet", "special_tokens"]

TEXT = "text"

_FILE = "tokenizers.json"
# What version 0.1 called the codecs; "latents" says in latents.json which one it is.
_OLD_NAMES = {"pictures": "vq", "units": "units"}


def special_tokens(non_text: Iterable[tuple[str, str]]) -> list[str]:
    """Text tokens behind the BPE's: of documents, then of each (name, kind) other than text."""
    names = ["<document>", "</document>"]
    for name, kind in non_text:
        names.append(f"<{name}>")
        if kind == "continuous":
            names.append(f"</{name}>")
    return names


class TokenizerSet:
    """Tokenizers in the order of the modality ids; text is modality 0."""

    def __init__(self, text: TextTokenizer, non_text: Mapping[str, Codec]) -> None:
        self.text = text
        self.non_text = dict(non_text)
        names = special_tokens((name, codec.kind) for name, codec in non_text.items())
        self.specials = {name: text.size + i for i, name in enumerate(names)}
        self._ids = {name: i for i, name in enumerate([TEXT, *self.non_text])}

    @property
    def modalities(self) -> list[tuple[str, str, int]]:
        """(name, kind, size) in the order of their ids; size as the model needs it."""
        text = (TEXT, "discrete", self.text.size + len(self.specials))
        return [text, *((n, t.kind, t.size) for n, t in self.non_text.items())]

    @property
    def options(self) -> dict[str, CodecOptions]:
        """What each codec is, by name; the vocabulary of text counts its special tokens too."""
        vocabulary = max(LEAST_VOCABULARY, self.text.size + len(self.specials))
        text = replace(self.text.options, vocabulary=vocabulary)
        return {TEXT: text, **{name: codec.options for name, codec in self.non_text.items()}}

    @property
    def document_start(self) -> int:
        """Text id of `<document>`."""
        return self.specials["<document>"]

    @property
    def document_end(self) -> int:
        """Text id of `</document>`."""
        return self.specials["</document>"]

    def modality_id(self, name: str) -> int:
        """The index of a modality."""
        if name not in self._ids:
            raise ValueError(f"there is no modality {name!r}; this data has {', '.join(self._ids)}")
        return self._ids[name]

    def begin(self, name: str) -> int:
        """Text id of the token that opens an item of a modality other than text."""
        self._other(name)
        return self.specials[f"<{name}>"]

    def end(self, name: str) -> int:
        """Id of the token that closes an item, inside the vocabulary of `end_modality(name)`."""
        tokenizer = self._other(name)
        return self.specials.get(f"</{name}>", tokenizer.size - 1)

    def end_modality(self, name: str) -> int:
        """Modality id of the end token: its own (discrete) or text's (continuous)."""
        return self._ids[name] if self._other(name).kind == "discrete" else self._ids[TEXT]

    def fixed_length(self, name: str) -> int | None:
        """Tokens of every item of a modality, without begin and end; None where they vary."""
        return None if name == TEXT else self._other(name).fixed_length

    def encode(self, name: str, content: Content) -> np.ndarray:
        """One item, as its medium reads it, without begin and end: int64 ids, or (tokens, dim)
        float32 values.

        Raises:
            ValueError: an item of a wrong type or shape.
        """
        codec = self.codec(name)
        item = codec.media.check(content, f"this {name}") if name != TEXT else content
        return codec.encode([codec.prepare(item, codec.options)])[0]

    def decode(self, name: str, ids_or_values: np.ndarray | Sequence[int]) -> Any:
        """One item back: str, an (s, s, 3) uint8 picture, or (waveform float32, samples a second).

        Raises:
            ValueError: a wrong number of ids, or ids outside the codebook (the end token is none).
        """
        return self.codec(name).decode([np.asarray(ids_or_values)])[0]

    def encode_document(
        self, document: Sequence[Segment | tuple[str, Content]], *, close: bool = True
    ) -> EncodedDocument:
        """A document of raw segments as tokens.

        Args:
            close: whether `</document>` follows; a prompt leaves it out.
        """
        items = [(name, self.encode(name, content)) for name, content in document]
        return self.assemble(items, close=close)

    def assemble(
        self, items: Sequence[tuple[str, np.ndarray]], *, close: bool = True
    ) -> EncodedDocument:
        """A document of encoded items: adds begin, end and document tokens.

        Args:
            items: (modality, ids or values) as `encode` gives them.
            close: whether `</document>` follows.
        """
        parts = [_part(0, [self.document_start], 0)]
        values: dict[str, list[np.ndarray]] = {}
        for number, (name, item) in enumerate(items, start=1):
            m = self.modality_id(name)
            if name == TEXT:
                parts.append(_part(m, item, number))
                continue
            parts.append(_part(0, [self.begin(name)], number))
            if self.non_text[name].kind == "continuous":
                values.setdefault(name, []).append(item)
                item = np.zeros(len(item), np.int64)
            parts.append(_part(m, item, number))
            parts.append(_part(self.end_modality(name), [self.end(name)], number))
        if close:
            parts.append(_part(0, [self.document_end], len(items) + 1))
        modality_ids, tokens, segment_ids = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        joined = {name: np.concatenate(v) for name, v in values.items()}
        return EncodedDocument(modality_ids, tokens, segment_ids, joined)

    def save(self, folder: str | Path) -> None:
        """Writes the set into a folder: JSON and safetensors, with their digests.

        Raises:
            WriteError: the folder could not be written.
        """
        codecs = {TEXT: name_of(type(self.text))}
        with filling(folder) as part:
            self.text.save(part / TEXT)
            for name, codec in self.non_text.items():
                codec.save(part / name)
                codecs[name] = name_of(type(codec))
            (part / _FILE).write_text(json.dumps({"version": 2, "codecs": codecs}, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> TokenizerSet:
        """The set that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no tokenizers.
            DamagedFile: one of its files is not what was written; names it.
        """
        folder = Path(folder)
        if not (folder / _FILE).exists():
            raise FileNotFoundError(
                f"{folder} holds no tokenizers ({_FILE} is missing); give the tokenizers folder of "
                "a run"
            )
        verify(folder)
        codecs = _codecs(folder)
        del codecs[TEXT]
        return cls(
            TextTokenizer.load(folder / TEXT),
            {name: codec_class(codec).load(folder / name) for name, codec in codecs.items()},
        )

    def codec(self, name: str) -> Codec:
        """The codec of a modality.

        Raises:
            ValueError: there is no such modality.
        """
        if name not in self._ids:
            raise ValueError(f"there is no modality {name!r}; this data has {', '.join(self._ids)}")
        return self.text if name == TEXT else self.non_text[name]

    def _other(self, name: str) -> Codec:
        if name not in self.non_text:
            choice = ", ".join(self.non_text) or "none"
            raise ValueError(f"{name!r} is no modality beside text; this data has {choice}")
        return self.non_text[name]


def _codecs(folder: Path) -> dict[str, str]:
    """Name -> codec of saved tokenizers."""
    recorded = read_json(folder / _FILE)
    if "codecs" in recorded:
        return dict(recorded["codecs"])
    codecs = {TEXT: "bpe"}
    for name, kind in recorded["others"].items():
        if kind == "latents":
            codecs[name] = read_json(folder / name / "latents.json")["source"]
        else:
            codecs[name] = _OLD_NAMES[kind]
    return codecs


def _part(modality: int, ids: Any, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.asarray(ids, np.int32)
    return (
        np.full(len(tokens), modality, np.uint8),
        tokens,
        np.full(len(tokens), number, np.int32),
    )
