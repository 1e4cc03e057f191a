"""Fits the codecs of a run on a source's training split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..modalities.codec import Codec
from ..modalities.config import ModalityConfig
from ..modalities.registry import codec_class
from ..modalities.text import TextTokenizer
from ..modalities.tokenizer_set import TEXT, TokenizerSet, special_tokens
from .cache import build_or_load
from .config import DataConfig
from .corpus import Source
from .fingerprints import codec_version, option_digests, versions
from .stage_log import StageLog

__all__ = ["fit_tokenizers"]


def fit_tokenizers(
    config: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    source: Source,
    cache: Path,
    log: StageLog,
) -> TokenizerSet:
    """In the order of the modalities; what the source still works on is waited for when its turn
    comes.

    Raises:
        ValueError: the training documents hold nothing of a modality.
    """
    corpus = source.training
    codecs: dict[str, Codec] = {}
    special = len(special_tokens((n, m.kind) for n, m in modalities.items() if n != TEXT))
    options: Any = modalities[TEXT].options
    text = _text_codec(modalities[TEXT]).fit(
        corpus.texts(), options, seed=config.seed, report=log.say, special=special
    )
    for name, modality in modalities.items():
        if name == TEXT:
            continue
        if name not in corpus.items:
            source.finish()
        prepared = corpus.items.get(name, ())
        if not len(prepared):
            raise ValueError(
                f"the training documents of {config.source!r} hold no {name}, but "
                f"modalities.{name} fits a codec to it; add some, leave the modality out, or reuse "
                "trained ones with data.tokenizers"
            )
        codecs[name] = _fit(modality, prepared, config.seed, cache, log)
    return TokenizerSet(text, codecs)


def _text_codec(modality: ModalityConfig) -> type[TextTokenizer]:
    found = codec_class(modality.name)
    if not issubclass(found, TextTokenizer):
        raise ValueError(f"modalities.text.codec is {modality.codec!r}; choose one of text: bpe")
    return found


def _fit(
    modality: ModalityConfig, prepared: Sequence[Any], seed: int, cache: Path, log: StageLog
) -> Codec:
    """A fitted codec; one whose training takes long is read from the cache, where it is there."""
    codec = codec_class(modality.name)
    if codec.version is None:
        return codec.fit(prepared, modality.options, seed=seed, report=log.say)
    hashed = hashlib.sha256()
    for item in prepared:
        array = np.ascontiguousarray(item)
        hashed.update(f"{array.dtype.str} {array.shape} ".encode())
        hashed.update(array.tobytes())
    key = {
        "modality": modality.to_dict(),  # apart: the options of a codec may have any names
        "files": option_digests(modality.options),
        "version": codec_version(modality.name, modality.options),
        "items": hashed.hexdigest(),
        "seed": seed,
        "versions": versions(),
    }

    def make(folder: Path) -> None:
        codec.fit(prepared, modality.options, seed=seed, report=log.say).save(folder)

    return codec.load(build_or_load(cache, modality.name.replace(":", "."), key, make))
