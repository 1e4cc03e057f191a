"""What a codec makes of items: how far they are after encoding and decoding, how it uses its ids,
and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..modalities.codec import Codec
from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["CodecCheck", "check_codec"]

#: Items encoded or decoded in one call.
AT_ONCE = 16


@dataclass(frozen=True)
class CodecCheck:
    """One modality's codec on some items.

    Attributes:
        name, codec, kind, size: of the modality; see Codec.
        items, tokens: encoded.
        encoded_per_second: tokens a second of encoding, the preparation of items among it, without
            the first item, which loads the network.
        decoded_per_second: of decoding; None where the codec cannot.
        used: ids that occur at least once, and how many there are besides the end token (discrete).
        perplexity: of the ids' frequencies, 1 where all tokens are one, the number of ids where
            all are equally frequent (discrete).
        mean, deviation: of all entries of the vectors (continuous).
        differences: by measure (Media.differences), of each item; empty where it cannot decode.
        one_way: why it cannot decode.
        again: the items that were decoded.
    """

    name: str
    codec: str
    kind: str
    size: int
    items: int
    tokens: int
    encoded_per_second: float
    decoded_per_second: float | None = None
    used: tuple[int, int] | None = None
    perplexity: float | None = None
    mean: float | None = None
    deviation: float | None = None
    differences: dict[str, list[float]] = field(default_factory=dict)
    one_way: str | None = None
    again: list[Any] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, of the differences mean, least and greatest."""
        plain = {k: v for k, v in vars(self).items() if k not in ("again", "differences")}
        plain["differences"] = {
            measure: {"mean": float(np.mean(v)), "least": min(v), "greatest": max(v)}
            for measure, v in self.differences.items()
        }
        return plain


def check_codec(tokenizers: TokenizerSet, name: str, items: Sequence[Any]) -> CodecCheck:
    """Encode items of a modality, decode them, and compare.

    Args:
        items: as the modality's medium reads them; at least one.

    Raises:
        ValueError: an item that the codec refuses.
    """
    codec = tokenizers.codec(name)
    where = f"this {name}"
    items = [codec.media.check(item, where) for item in items]
    tokens, encoding = _timed(lambda part: _encoded(codec, part), items)
    counted = sum(map(len, tokens))
    facts: dict[str, Any] = {}
    if codec.kind == "discrete":
        end = tokenizers.index(name) != tokenizers.text_id  # text has no end token
        facts = _use(tokens, codec.size - end)
    else:
        values = np.concatenate(tokens)
        facts = {"mean": float(values.mean()), "deviation": float(values.std())}
    if codec.cannot_decode:
        facts["one_way"] = codec.cannot_decode
    else:
        again, decoding = _timed(codec.decode, tokens)
        differences: dict[str, list[float]] = {}
        for item, made in zip(items, again, strict=True):
            for measure, value in codec.media.differences(item, made).items():
                differences.setdefault(measure, []).append(value)
        rest = sum(map(len, tokens[1:])) or counted
        facts |= {
            "again": again,
            "differences": differences,
            "decoded_per_second": rest / decoding,
        }
    return CodecCheck(
        name,
        codec.codec,
        codec.kind,
        codec.size,
        len(items),
        counted,
        (sum(map(len, tokens[1:])) or counted) / encoding,
        **facts,
    )


def _encoded(codec: Codec, items: Sequence[Any]) -> list[np.ndarray]:
    return codec.encode([codec.prepare(item, codec.options) for item in items])


def _timed(work: Any, items: Sequence[Any]) -> tuple[list[Any], float]:
    """Results, and the seconds of all but the first item; with one item, of that."""
    begin = time.perf_counter()
    made = list(work(items[:1]))
    if len(items) > 1:
        begin = time.perf_counter()
    for start in range(1, len(items), AT_ONCE):
        made += work(items[start : start + AT_ONCE])
    return made, max(time.perf_counter() - begin, 1e-9)


def _use(tokens: Sequence[np.ndarray], ids: int) -> dict[str, Any]:
    """How many of so many ids occur, and their perplexity."""
    counts = np.bincount(np.concatenate(tokens).astype(np.int64), minlength=ids)
    share = counts[counts > 0] / max(1, counts.sum())
    return {
        "used": (int((counts > 0).sum()), ids),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())),
    }
