"""Trains the tokenizers of a setting on a source's training split."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ..modalities.image.latent_images import LatentImages
from ..modalities.image.latents import make_codec
from ..modalities.image.vq import Pictures
from ..modalities.speech.units import Units
from ..modalities.text import Text
from ..modalities.tokenizer_set import (
    Tokenizer,
    TokenizerSet,
    special_tokens,
)
from .cache import materialise
from .config import DataConfig
from .corpus import Corpus, Source
from .progress import Progress

__all__ = ["train_tokenizers"]

PICTURES_VERSION = 2
"""Part of the cache key: raise it when the training of `Pictures` changes."""


def train_tokenizers(
    config: DataConfig, source: Source, cache: Path, progress: Progress
) -> TokenizerSet:
    """Text and images first, while speech may still be under way; then speech units."""
    corpus = source.training
    others: dict[str, Tokenizer] = {}
    size = config.chosen("text_vocabulary") - len(special_tokens(config.modalities[1:]))
    if config.text_tokenizer is not None:
        text = Text.pretrained(Path(config.text_tokenizer), size)
        progress.say(f"text tokenizer: {text.bpe} tokens of {config.text_tokenizer}")
    else:
        text = Text.train(corpus.texts(), size)
        progress.say(f"text tokenizer: {text.bpe} byte-level BPE tokens")
    for name, kind in config.modalities[1:]:
        if name == "image":
            _need(len(corpus.images), "image", config)
            others[name] = _images(config, kind, corpus, cache, progress)
        else:
            source.finish()
            _need(len(corpus.frames), name, config)
            others[name] = Units.train(
                corpus.frames, units=config.chosen("speech_units"), seed=config.seed
            )
            progress.say(f"speech units: {config.speech_units} clusters of log-mel frames")
    return TokenizerSet(text, others)


def _images(
    config: DataConfig, kind: str, corpus: Corpus, cache: Path, progress: Progress
) -> Tokenizer:
    if kind == "continuous":
        codec = make_codec(corpus.images, config)
        progress.say(f"image latents: {codec.source}, {codec.tokens} vectors of {codec.dim}")
        return LatentImages(codec)
    key = {
        "version": PICTURES_VERSION,
        "images": hashlib.sha256(corpus.images.tobytes()).hexdigest(),
        "codes": config.image_codes,
        "steps": config.image_steps,
        "seed": config.seed,
        "torch": torch.__version__,
    }

    def report(step: int, error: float) -> None:
        progress.say(f"image tokenizer: step {step} of {config.image_steps}, error {error:.4f}")

    def make(folder: Path) -> None:
        pictures = Pictures.train(
            corpus.images,
            codes=config.chosen("image_codes"),
            steps=config.image_steps,
            seed=config.seed,
            report=report,
        )
        pictures.save(folder)

    return Pictures.load(materialise(cache, "pictures", key, make))


def _need(count: int, name: str, config: DataConfig) -> None:
    if not count:
        raise ValueError(
            f"the training documents of {config.source!r} hold no {name}, but setting "
            f"{config.setting!r} trains a tokenizer for it; add some, choose another setting, or "
            "reuse trained ones with data.tokenizers"
        )
