"""A corpus through the tokenizers, every modality in one go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..modalities.documents import EncodedDocument
from ..modalities.tokenizer_set import TEXT, TokenizerSet
from .corpus import Corpus
from .errors import BadDocuments
from .stage_log import StageLog

__all__ = ["EncodedCorpus", "encode_corpus"]

#: Items encoded between two lines of progress.
CHUNK = 1024


@dataclass
class EncodedCorpus:
    """Encoded documents of one split.

    Attributes:
        mixed: those with more than text.
        text: those of text alone.
        unknown: text tokens that stand for what the tokenizer does not know.
    """

    mixed: list[EncodedDocument] = field(default_factory=list)
    text: list[EncodedDocument] = field(default_factory=list)
    unknown: int = 0


def encode_corpus(
    corpus: Corpus, tokenizers: TokenizerSet, bad: BadDocuments, log: StageLog
) -> EncodedCorpus:
    """Every document as tokens; what becomes of those that fail is `bad`'s to say."""
    texts = _texts(corpus, tokenizers, log)
    encoded: dict[str, list[np.ndarray]] = {}
    for name, codec in tokenizers.non_text.items():
        prepared = corpus.items.get(name, ())
        encoded[name] = []
        for start in range(0, len(prepared), CHUNK):
            log.still(f"{name}: encoded {start:,} of {len(prepared):,} items")
            encoded[name] += codec.encode(prepared[start : start + CHUNK])
    done = EncodedCorpus()
    for number, document in enumerate(corpus.documents):
        with bad.document(corpus.where[number] if corpus.where else f"document {number}"):
            items = []
            for name, content in document:
                if name != TEXT:
                    items.append((name, encoded[name][int(content)]))
                    continue
                ids = tokenizers.text.encode([str(content)])[0] if texts is None else next(texts)
                done.unknown += int((ids == tokenizers.text.unknown).sum())
                items.append((name, ids))
            whole = all(name == TEXT for name, _ in document)
            (done.text if whole else done.mixed).append(tokenizers.assemble(items))
    return done


def _texts(corpus: Corpus, tokenizers: TokenizerSet, log: StageLog) -> Iterator[np.ndarray] | None:
    """All texts at once; None where one of them fails, and each document must show whether it is
    its own."""
    texts, out = corpus.texts(), []
    try:
        for start in range(0, len(texts), CHUNK):
            log.still(f"text: encoded {start:,} of {len(texts):,} items")
            out += tokenizers.text.encode(texts[start : start + CHUNK])
    except Exception:
        return None
    return iter(out)
