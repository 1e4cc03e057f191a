"""A corpus through the tokenizers, every modality in one go."""

from __future__ import annotations

from mixture_of_mamba.data.documents import EncodedDocument
from mixture_of_mamba.data.sources.corpus import Corpus
from mixture_of_mamba.data.tokenizers import TokenizerSet
from mixture_of_mamba.data.tokenizers.units import Units

__all__ = ["encode_corpus"]


def encode_corpus(
    corpus: Corpus, tokenizers: TokenizerSet
) -> tuple[list[EncodedDocument], list[EncodedDocument]]:
    """Encoded documents: those with more than text, and those of text alone."""
    texts = iter(tokenizers.text.encode(corpus.texts()))
    encoded = {}
    for name, tokenizer in tokenizers.others.items():
        if isinstance(tokenizer, Units):
            encoded[name] = tokenizer.encode_frames(corpus.frames)
        else:
            encoded[name] = tokenizer.encode(corpus.images)
    mixed: list[EncodedDocument] = []
    text_only: list[EncodedDocument] = []
    for document in corpus.documents:
        items = [
            (name, next(texts) if name == "text" else encoded[name][int(content)])
            for name, content in document
        ]
        whole = all(name == "text" for name, _ in document)
        (text_only if whole else mixed).append(tokenizers.assemble(items))
    return mixed, text_only
