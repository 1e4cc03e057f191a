"""From a DataConfig to prepared data, built once and then read from the cache."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..cache_folders import cache_folder
from ..modalities.options import PatchOptions, TextOptions, UnitOptions, VQOptions
from ..modalities.text import text_file
from ..modalities.tokenizer_set import TokenizerSet
from ..processes import unwinding
from .bundle import DataBundle
from .cache import materialise
from .config import OF_TOKENIZERS, DataConfig
from .corpus import Source
from .encoding import EncodedCorpus, encode_corpus
from .fingerprints import stamps
from .fit import train_tokenizers
from .listing import Listing, list_documents
from .packing import pack
from .progress import Progress
from .windows import PackedWindows

__all__ = ["build", "settled"]

VERSION = 4
"""Part of the cache key: raise it when equal configs give other data than before."""
MOST_REASONS = 100
"""Left-out documents whose reasons are kept."""

_PACKAGES = ("torch", "numpy", "tokenizers", "scikit-learn", "diffusers", "espeakng-loader")


def build(config: DataConfig, progress: bool = True) -> DataBundle:
    """The data of a config; built on the first call, read from the cache afterwards.

    Equal configs on equal package versions give equal data in every process; several processes may
    ask at once, then one builds and the others wait.

    Args:
        progress: whether stages are reported on standard error.

    Raises:
        DataError: a document of the user's own data cannot be read (file and line are named).
        ImportError: a package is missing; the message names the extra that brings it.
        ValueError: a path that does not exist, or reused tokenizers that contradict the config.
    """
    config = settled(config)
    say = Progress(progress)
    cache = cache_folder("data", config.cache)
    listing = Listing() if config.source == "digits" else list_documents(Path(config.source))

    def make(folder: Path) -> None:
        say.say(f"preparing {config.setting} data from {config.source}; kept in {cache}")
        _build(config, listing, cache, say).save(folder)

    with unwinding():
        folder = materialise(cache, "data", _key(config, listing), make)
    bundle = DataBundle.load(folder)
    for line in [*listing.notes, *bundle.facts["notes"]]:  # of a cached preparation too
        say.say(line)
    counts = ", ".join(f"{n} {c:,}" for n, c in bundle.train.tokens_by_modality().items())
    say.say(
        f"{len(bundle.train):,} training windows ({counts}), {len(bundle.validation):,} held out"
    )
    return bundle


def settled(config: DataConfig) -> DataConfig:
    """The config, its paths held against the disk, with what its reused tokenizers decide: sizes of
    vocabularies and images, where latents come from, patch, order.

    A field that was left out takes the tokenizers' value, so that what is recorded is what is used.

    Raises:
        ValueError: a path that does not exist, a field that was set and says otherwise, or
            tokenizers of another setting.
    """
    config.check_paths()
    if config.tokenizers is None:
        return config
    theirs = _described(_reuse(config))
    for name, value in theirs.items():
        if getattr(config, name) not in (None, value):
            raise ValueError(
                f"data.{name} is {getattr(config, name)!r}, but the tokenizers in "
                f"{config.tokenizers} were made with {value!r}; give data.{name} {value}, leave it "
                "out, or give other tokenizers"
            )
    open_fields = {name for name in OF_TOKENIZERS if getattr(config, name) is None}
    return replace(config, **{name: {**OF_TOKENIZERS, **theirs}[name] for name in open_fields})


def _described(tokenizers: TokenizerSet) -> dict[str, Any]:
    """The fields of OF_TOKENIZERS that tokenizers decide; those of a modality that they lack, or
    of another kind of image, are not there."""
    theirs: dict[str, Any] = {}
    for name, options in tokenizers.options.items():
        if isinstance(options, TextOptions):
            theirs["text_vocabulary"] = options.vocabulary
        elif isinstance(options, VQOptions):
            theirs |= {"image_size": options.size, "image_codes": options.codes}
        elif isinstance(options, PatchOptions):
            theirs |= {"image_size": options.size, "latents": tokenizers.codec(name).codec}
            theirs |= {"patch": options.patch, "patch_order": options.order}
        elif isinstance(options, UnitOptions):
            theirs["speech_units"] = options.units
    return theirs


def _build(config: DataConfig, listing: Listing, cache: Path, say: Progress) -> DataBundle:
    source = _source(config, listing, say)
    try:
        say.say(f"{len(source.training.documents):,} training documents")
        if config.tokenizers is not None:
            tokenizers = _reuse(config)
        else:
            tokenizers = train_tokenizers(config, source, cache, say)
        source.finish()
    finally:
        source.stop()
    splits = {"train": source.training, "validation": source.validation}
    encoded = {n: encode_corpus(c, tokenizers, source.bad, say) for n, c in splits.items()}
    facts: dict[str, Any] = {
        "config": config.content(),
        "left_out": len(source.bad.left_out),
        "left_out_because": source.bad.left_out[:MOST_REASONS],
    }
    packed = {}
    for name, corpus in encoded.items():
        packed[name] = _pack(config, corpus, source, tokenizers)
        facts[name] = {
            "documents": len(corpus.mixed) + len(corpus.text),
            "longer_than_a_window": sum(len(d) > config.window for d in corpus.mixed),
            "unknown": corpus.unknown,
            "windows": len(packed[name]),
            "tokens": packed[name].tokens_by_modality(),
            "padding": packed[name].padding,
        }
    say.say("documents encoded and packed")
    facts["notes"] = [*source.notes, *_notes(config, facts)]
    return DataBundle(tokenizers, packed["train"], packed["validation"], source.examples(), facts)


def _notes(config: DataConfig, facts: dict[str, Any]) -> list[str]:
    """What a user should see about documents that did not come through whole."""
    notes = []
    if facts["left_out"]:
        first = facts["left_out_because"][0]
        notes.append(f"left out: {facts['left_out']:,} bad documents, first: {first}")
    longer, unknown = (
        sum(facts[split][name] for split in ("train", "validation"))
        for name in ("longer_than_a_window", "unknown")
    )
    if longer and config.source != "digits":
        notes.append(
            f"cut: {longer:,} documents with more than text are longer than a window of "
            f"{config.window} tokens and lie in several"
        )
    if unknown:
        notes.append(
            f"not read: {unknown:,} stretches of text that {config.text_tokenizer} does not know; "
            "its token for the unknown stands for them"
        )
    return notes


def _pack(
    config: DataConfig, corpus: EncodedCorpus, source: Source, tokenizers: TokenizerSet
) -> PackedWindows:
    names = tokenizers.names
    return pack(
        corpus.mixed,
        corpus.text,
        names=names,
        window=config.window,
        seed=config.seed,
        text_fraction=source.text_fraction,
        whole=list(tokenizers.fixed_length),
        # one scene in 1,300 is too long; it is cut as it was for all figures that were published
        together=config.source != "digits",
    )


def _source(config: DataConfig, listing: Listing, say: Progress) -> Source:
    if config.source == "digits":
        from .digits.source import DigitScenes

        return DigitScenes(config, say)
    from .user import UserDocuments

    return UserDocuments(config, listing, say)


def _reuse(config: DataConfig) -> TokenizerSet:
    tokenizers = TokenizerSet.load(str(config.tokenizers))
    found = tuple((name, kind) for name, kind, _ in tokenizers.modalities)
    if found != config.modalities:
        raise ValueError(
            f"the tokenizers in {config.tokenizers} are for {found}, but setting "
            f"{config.setting!r} has {config.modalities}; choose the setting they were made for"
        )
    return tokenizers


def _key(config: DataConfig, listing: Listing) -> dict[str, Any]:
    """Everything that the data depends on, the source's files among it."""
    key: dict[str, Any] = {"version": VERSION, **config.content()}
    key["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            key[package] = version(package)
        except PackageNotFoundError:
            key[package] = None
    if config.source != "digits":
        key["documents"] = stamps(listing.documents)
    if config.text_tokenizer is not None:
        key["text_tokenizer"] = hashlib.sha256(
            text_file(Path(config.text_tokenizer)).read_bytes()
        ).hexdigest()
    for name in ("tokenizers", "latents"):
        path = getattr(config, name)
        if path is not None and Path(path).is_dir():
            files = sorted(p for p in Path(path).rglob("*") if p.is_file())
            key[name] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
    return key
