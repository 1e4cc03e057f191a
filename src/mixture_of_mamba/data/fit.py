"""Fits the codecs of a setting on a source's training split."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..modalities.codec import Codec
from ..modalities.options import (
    AutoencoderOptions,
    PatchOptions,
    TextOptions,
    UnitOptions,
    VQOptions,
)
from ..modalities.registry import codec_class
from ..modalities.text import TextTokenizer
from ..modalities.tokenizer_set import TokenizerSet, special_tokens
from .cache import materialise
from .config import DataConfig
from .corpus import Source
from .progress import Progress

__all__ = ["train_tokenizers"]


def train_tokenizers(
    config: DataConfig, source: Source, cache: Path, progress: Progress
) -> TokenizerSet:
    """Text and images first, while speech may still be under way; then speech units."""
    corpus = source.training
    text = TextTokenizer.fit(
        corpus.texts(),
        TextOptions(
            vocabulary=config.chosen("text_vocabulary"),
            tokenizer=config.text_tokenizer,
        ),
        seed=config.seed,
        report=progress.say,
        special=len(special_tokens(config.modalities[1:])),
    )
    codecs: dict[str, Codec] = {}
    for name, kind in config.modalities[1:]:
        if name != "image":
            source.finish()
        items: Any = corpus.images if name == "image" else corpus.frames
        _need(len(items), name, config)
        codec, options = _codec(config, name, kind)
        codecs[name] = _fit(codec, items, options, config.seed, cache, progress)
    return TokenizerSet(text, codecs)


def _codec(config: DataConfig, name: str, kind: str) -> tuple[str, Any]:
    """The codec of a modality and its options."""
    if name == "speech":
        return "units", UnitOptions(units=config.chosen("speech_units"))
    size, steps = config.chosen("image_size"), config.image_steps
    if kind == "discrete":
        return "vq", VQOptions(size=size, codes=config.chosen("image_codes"), steps=steps)
    latents = config.chosen("latents")
    patches = {"size": size, "patch": config.chosen("patch"), "order": config.chosen("patch_order")}
    if latents == "patches":
        return latents, PatchOptions(**patches)
    folder = None if latents == "autoencoder" else latents
    return "autoencoder", AutoencoderOptions(**patches, steps=steps, pretrained=folder)


def _fit(
    name: str,
    items: Any,
    options: Any,
    seed: int,
    cache: Path,
    progress: Progress,
) -> Codec:
    """A fitted codec; one whose training takes long is read from the cache, where it is there."""
    codec = codec_class(name)
    if codec.version is None:
        return codec.fit(items, options, seed=seed, report=progress.say)
    hashed = hashlib.sha256()
    for item in items:
        hashed.update(np.ascontiguousarray(item).tobytes())
    key = {
        "codec": name,
        "version": codec.version,
        "items": hashed.hexdigest(),
        "options": asdict(options),
        "seed": seed,
        "torch": torch.__version__,
    }

    def make(folder: Path) -> None:
        codec.fit(items, options, seed=seed, report=progress.say).save(folder)

    return codec.load(materialise(cache, name.replace(":", "."), key, make))


def _need(count: int, name: str, config: DataConfig) -> None:
    if not count:
        raise ValueError(
            f"the training documents of {config.source!r} hold no {name}, but setting "
            f"{config.setting!r} trains a tokenizer for it; add some, choose another setting, or "
            "reuse trained ones with data.tokenizers"
        )
