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
        used: ids that occur at least once, and how many there are besides the end token and ids
            that are alone at their place of Codec.cycle, such as markers (discrete).
        perplexity: of the frequencies of those ids, 1 where all tokens are one, the number of ids
            where all are equally frequent; of several codebooks the mean of theirs (discrete).
        codebooks: with ids of their own: different ranges of Codec.cycle (discrete).
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
    codebooks: int | None = None
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
    """Encode items of a modality, decode them, and compare, with what the codec keeps of an item
    (Codec.example) where that is an item too: of a longer video the frames that it took.

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
        facts = _use(tokens, codec.cycle or ((0, codec.size - end),))
    else:
        values = np.concatenate(tokens)
        facts = {"mean": float(values.mean()), "deviation": float(values.std())}
    if codec.cannot_decode:
        facts["one_way"] = codec.cannot_decode
    else:
        again, decoding = _timed(codec.decode, tokens)
        differences: dict[str, list[float]] = {}
        for item, made in zip(items, again, strict=True):
            for measure, value in codec.media.differences(_kept(codec, item), made).items():
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


def _kept(codec: Codec, item: Any) -> Any:
    """What of an item should come back."""
    kept = codec.example(item, codec.prepare(item, codec.options), codec.options)
    return item if kept is None else kept


def _use(tokens: Sequence[np.ndarray], cycle: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """How many of the ids occur, and their perplexity, by the ranges of a cycle that have more
    than one id."""
    rows = np.concatenate(tokens).astype(np.int64).reshape(-1, len(cycle))
    found, used = [], 0
    ranges = dict.fromkeys(cycle)
    books = [(low, high) for low, high in ranges if high - low > 1] or list(ranges)
    for book in books:
        ids = rows[:, [place for place, at in enumerate(cycle) if at == book]]
        counts = np.unique(ids, return_counts=True)[1]
        share = counts / max(1, counts.sum())
        used += len(counts)
        found.append(float(np.exp(-(share * np.log(share)).sum())))
    return {
        "used": (used, sum(high - low for low, high in books)),
        "perplexity": float(np.mean(found)),
        "codebooks": len(books),
    }
