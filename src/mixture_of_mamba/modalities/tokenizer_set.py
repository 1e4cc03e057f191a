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
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..files import filling, read_json, verify
from .documents import Content, EncodedDocument, Segment
from .image.latent_images import LatentImages
from .image.vq import Pictures
from .speech.units import Units
from .text import Text

__all__ = ["Tokenizer", "TokenizerSet", "special_tokens"]

TEXT = "text"
_TYPES: dict[str, Any] = {"pictures": Pictures, "latents": LatentImages, "units": Units}
_FILE = "tokenizers.json"


def special_tokens(others: Iterable[tuple[str, str]]) -> list[str]:
    """Text tokens behind the BPE's: of documents, then of each (name, kind) other than text."""
    names = ["<document>", "</document>"]
    for name, kind in others:
        names.append(f"<{name}>")
        if kind == "continuous":
            names.append(f"</{name}>")
    return names


class Tokenizer(Protocol):
    """A modality other than text.

    Attributes:
        kind: "discrete" or "continuous".
        size: ids, the end token among them (discrete), or entries of a value (continuous).
        fixed_length: tokens of every item, without begin and end; None: they vary.
    """

    @property
    def kind(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def fixed_length(self) -> int | None: ...
    def encode(self, items: Any) -> list[np.ndarray]: ...
    def decode(self, items: Any) -> list[Any]: ...
    def save(self, folder: Path) -> None: ...


class TokenizerSet:
    """Tokenizers in the order of the modality ids; text is modality 0."""

    def __init__(self, text: Text, others: Mapping[str, Tokenizer]) -> None:
        self.text = text
        self.others = dict(others)
        names = special_tokens((name, tokenizer.kind) for name, tokenizer in others.items())
        self.specials = {name: text.bpe + i for i, name in enumerate(names)}
        self._ids = {name: i for i, name in enumerate([TEXT, *self.others])}

    @property
    def modalities(self) -> list[tuple[str, str, int]]:
        """(name, kind, size) in the order of their ids; size as the model needs it."""
        text = (TEXT, "discrete", self.text.bpe + len(self.specials))
        return [text, *((n, t.kind, t.size) for n, t in self.others.items())]

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
        """One item without begin and end: int64 ids, or (tokens, dim) float32 values."""
        if name == TEXT:
            return self.text.encode([str(content)])[0]
        return self._other(name).encode([content])[0]

    def decode(self, name: str, ids_or_values: np.ndarray | Sequence[int]) -> Any:
        """One item back: str, an (s, s, 3) uint8 picture, or (waveform float32, samples a second).

        Raises:
            ValueError: a wrong number of ids, or ids outside the codebook (the end token is none).
        """
        if name == TEXT:
            return self.text.decode(ids_or_values)
        return self._other(name).decode([np.asarray(ids_or_values)])[0]

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
            if self.others[name].kind == "continuous":
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
        kinds = {}
        with filling(folder) as part:
            self.text.save(part / TEXT)
            for name, tokenizer in self.others.items():
                tokenizer.save(part / name)
                kinds[name] = next(k for k, c in _TYPES.items() if isinstance(tokenizer, c))
            (part / _FILE).write_text(json.dumps({"version": 1, "others": kinds}, indent=1))

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
        kinds = read_json(folder / _FILE)["others"]
        others = {name: _TYPES[kind].load(folder / name) for name, kind in kinds.items()}
        return cls(Text.load(folder / TEXT), others)

    def _other(self, name: str) -> Tokenizer:
        if name not in self.others:
            choice = ", ".join(self.others) or "none"
            raise ValueError(f"{name!r} is no modality beside text; this data has {choice}")
        return self.others[name]


def _part(modality: int, ids: Any, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens = np.asarray(ids, np.int32)
    return (
        np.full(len(tokens), modality, np.uint8),
        tokens,
        np.full(len(tokens), number, np.int32),
    )
