"""The codecs of all modalities together: documents to tokens and back.

Ids count inside their own modality. The text vocabulary is the BPE tokens, then `<document>`,
`</document>`, then for every other modality its begin token, followed by its end token where the
modality is continuous. A discrete modality other than text has its end token as its own last id.
A document is `<document>`, segments, `</document>`; text has no begin and end tokens, everything
else has both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files import filling, verify
from .codec import Codec
from .documents import EncodedDocument, Item
from .media import Media
from .options import LEAST_VOCABULARY, CodecOptions
from .recorded import RecordedCodec, codec_names, record
from .registry import codec_class, name_of
from .text import TextTokenizer

__all__ = ["TokenizerSet", "marker_tokens", "special_tokens"]

TEXT = "text"


def special_tokens(non_text: Iterable[tuple[str, str]]) -> list[str]:
    """Text tokens behind the BPE's: of documents, then of each (name, kind) other than text."""
    names = ["<document>", "</document>"]
    for name, kind in non_text:
        names += marker_tokens(name, kind)
    return names


def marker_tokens(name: str, kind: str) -> tuple[str, ...]:
    """The text tokens that open a modality's items and, where it has no tokens of its own, close
    them."""
    return (f"<{name}>",) if kind == "discrete" else (f"<{name}>", f"</{name}>")


class TokenizerSet:
    """The codecs of all modalities, in the order of the modality ids; text is modality 0.

    Attributes:
        text: the codec of text.
        non_text: the codecs of the other modalities by name.
        names, kinds, sizes: of each modality its name, "discrete" or "continuous", and its
            vocabulary, end and special tokens among it, or the width of its vectors.
        begin: text id of the token that opens an item, by name of a modality other than text.
        end: id of the token that closes an item, inside the vocabulary of `end_modality(name)`.
        fixed_length: tokens of every item without begin and end, by name; absent where they vary.
        max_length: most tokens of items that are never cut, by name, those of a fixed length too.
        cycle: of each modality that has one, by name; see Codec.
        one_way: of each modality that cannot be generated, by name, the reason.
        document: text ids of the tokens that begin and end a document.
        special: text ids that are no words.

    Raises:
        ValueError: a second modality called text, or a codec whose items may end within a cycle.
    """

    #: Modality id of text.
    text_id = 0

    def __init__(self, text: TextTokenizer, non_text: Mapping[str, Codec]) -> None:
        if TEXT in non_text:
            raise ValueError(f"{TEXT!r} is the first modality already; give another name")
        self.text = text
        self.non_text = dict(non_text)
        names = special_tokens((name, codec.kind) for name, codec in non_text.items())
        ids = {name: text.size + i for i, name in enumerate(names)}
        self.special = frozenset(ids.values())
        self.document = (ids["<document>"], ids["</document>"])
        self.names = (TEXT, *non_text)
        self.kinds = ("discrete", *(codec.kind for codec in non_text.values()))
        self.sizes = (text.size + len(ids), *(codec.size for codec in non_text.values()))
        self.begin = {name: ids[f"<{name}>"] for name in non_text}
        self.end = {
            name: ids[f"</{name}>"] if codec.kind == "continuous" else codec.size - 1
            for name, codec in non_text.items()
        }
        lengths = {name: codec.fixed_length for name, codec in non_text.items()}
        self.fixed_length = {name: n for name, n in lengths.items() if n is not None}
        bounds = {name: codec.max_length for name, codec in non_text.items()}
        self.max_length = {n: m for n, m in bounds.items() if m is not None} | self.fixed_length
        self.cycle = {name: codec.cycle for name, codec in non_text.items() if codec.cycle}
        for name, cycle in self.cycle.items():
            if (most := self.max_length.get(name, 0)) % len(cycle):
                raise ValueError(
                    f"codec {non_text[name].codec!r} of {name!r} has items of up to {most} tokens, "
                    f"but an item holds whole cycles of {len(cycle)}; give it a length that is a "
                    f"multiple of {len(cycle)}"
                )
        self.one_way = {
            name: codec.cannot_decode for name, codec in non_text.items() if codec.cannot_decode
        }

    @property
    def modalities(self) -> list[tuple[str, str, int]]:
        """(name, kind, size) in the order of their ids."""
        return list(zip(self.names, self.kinds, self.sizes, strict=True))

    @property
    def media(self) -> dict[str, Media]:
        """How the items of each modality look as files, by name."""
        return {name: self.codec(name).media for name in self.names}

    @property
    def options(self) -> dict[str, CodecOptions]:
        """What each codec is, by name; the vocabulary of text counts its special tokens too."""
        text = replace(self.text.options, vocabulary=max(LEAST_VOCABULARY, self.sizes[0]))
        return {TEXT: text, **{name: codec.options for name, codec in self.non_text.items()}}

    @property
    def recorded(self) -> dict[str, RecordedCodec]:
        """What a folder of this set lists, by name."""
        return {
            name: RecordedCodec(name_of(type(self.codec(name))), options, self.max_length.get(name))
            for name, options in self.options.items()
        }

    def index(self, name: str) -> int:
        """Modality id.

        Raises:
            ValueError: there is no such modality.
        """
        if name not in self.names:
            raise ValueError(f"this model has no modality {name!r}; it has {', '.join(self.names)}")
        return self.names.index(name)

    def kind(self, name: str) -> str:
        """ "discrete" or "continuous"."""
        return self.kinds[self.index(name)]

    def codec(self, name: str) -> Codec:
        """The codec of a modality.

        Raises:
            ValueError: there is no such modality.
        """
        return self.non_text[name] if self.index(name) else self.text

    def end_modality(self, name: str) -> int:
        """Modality id of the end token: its own (discrete) or text's (continuous)."""
        return self.index(name) if self.kind(name) == "discrete" else self.text_id

    def encode(self, name: str, item: Item) -> np.ndarray:
        """One item, as its medium reads it, without begin and end: int64 ids, or (tokens, dim)
        float32 vectors.

        Raises:
            ValueError: an item of a wrong type or shape.
        """
        codec = self.codec(name)
        if name != TEXT:  # of text any string will do, the empty one too
            item = codec.media.check(item, f"this {name}")
        return codec.encode([codec.prepare(item, codec.options)])[0]

    def decode(self, name: str, tokens: np.ndarray | Sequence[int]) -> Any:
        """One item of ids or vectors, as its medium writes it.

        Raises:
            ValueError: a wrong number of ids, or ids outside the codebook (the end token is none).
        """
        return self.codec(name).decode([np.asarray(tokens)])[0]

    def assemble(
        self, items: Sequence[tuple[str, np.ndarray]], *, close: bool = True
    ) -> EncodedDocument:
        """A document of encoded items: adds begin, end and document tokens.

        Args:
            items: (modality, ids or vectors) as `encode` gives them.
            close: whether `</document>` follows; a prompt is left open.
        """
        text, (start, end) = self.text_id, self.document
        runs = [_run(text, [start], 0)]
        vectors: dict[str, list[np.ndarray]] = {}
        for segment, (name, tokens) in enumerate(items, start=1):
            modality = self.index(name)
            if name == TEXT:
                runs.append(_run(modality, tokens, segment))
                continue
            if self.kinds[modality] == "continuous":
                vectors.setdefault(name, []).append(tokens)
                tokens = np.zeros(len(tokens), np.int64)
            runs.append(_run(text, [self.begin[name]], segment))
            runs.append(_run(modality, tokens, segment))
            runs.append(_run(self.end_modality(name), [self.end[name]], segment))
        if close:
            runs.append(_run(text, [end], len(items) + 1))
        modality_ids, tokens, segment_ids = (
            np.concatenate(column) for column in zip(*runs, strict=True)
        )
        values = {name: np.concatenate(parts) for name, parts in vectors.items()}
        return EncodedDocument(modality_ids, tokens, segment_ids, values)

    def save(self, folder: str | Path) -> None:
        """Writes the set into a folder: JSON and safetensors, with their digests.

        Raises:
            WriteError: the folder could not be written.
        """
        with filling(folder) as part:
            for name in self.names:
                self.codec(name).save(part / name)
            record(part, self.recorded)

    @classmethod
    def load(cls, folder: str | Path) -> TokenizerSet:
        """The set that `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no tokenizers.
            DamagedFile: one of its files is not what was written; names it.
        """
        folder = Path(folder)
        recorded = codec_names(folder)
        verify(folder)
        codecs: dict[str, Any] = {
            name: codec_class(codec).load(folder / name) for name, codec in recorded.items()
        }
        return cls(codecs.pop(TEXT), codecs)


def _run(modality: int, ids: Any, segment: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Modality ids, tokens and segment ids of one run of tokens."""
    tokens = np.asarray(ids, np.int32)
    return (
        np.full(len(tokens), modality, np.uint8),
        tokens,
        np.full(len(tokens), segment, np.int32),
    )
