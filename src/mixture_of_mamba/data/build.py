"""From a DataConfig to prepared data, built once and then read from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cache_folders import cache_folder
from ..modalities.config import ModalityConfig
from ..modalities.registry import codec_class
from ..modalities.tokenizer_set import TEXT, TokenizerSet
from ..processes import unwinding
from .bundle import DataBundle
from .cache import build_or_load
from .config import DataConfig, check_length, check_modalities
from .corpus import Source
from .encoding import EncodedCorpus, encode_corpus
from .fingerprints import codec_version, digests, fingerprints, option_digests, versions
from .fit import fit_tokenizers
from .listing import Listing, list_documents
from .packing import pack
from .reuse import resolve_own
from .stage_log import StageLog
from .windows import PackedWindows

__all__ = ["build"]

#: Part of the cache key: raise it when equal configs give other data than before.
VERSION = 5
#: Skipped documents whose reasons are kept.
MOST_REASONS = 100


def build(
    config: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    progress: bool = True,
    own: Path | None = None,
) -> DataBundle:
    """The data of a config; built on the first call, read from the cache afterwards.

    Equal configs on equal package versions give equal data in every process; several processes may
    ask at once, then one builds and the others wait.

    Args:
        modalities: codec and options by name, in the order of their ids.
        progress: whether stages are reported on standard error.
        own: where the tokenizers of a run that has this data are, or will be; they are reused where
            files that the modalities name are gone.

    Raises:
        DataError: a document of the user's own data cannot be read (file and line are named).
        ImportError: a package is missing; the message names the extra that brings it.
        ValueError: a path that does not exist, or reused tokenizers that contradict the config.
    """
    log = StageLog(progress)
    config, modalities = resolve_own(config, modalities, own, log.say)
    check_modalities(config, modalities)
    cache = cache_folder("data", config.cache)
    listing = Listing()
    if config.source != "digits":
        media = {name: codec_class(m.name).media for name, m in modalities.items()}
        listing = list_documents(Path(config.source), media)

    def make(folder: Path) -> None:
        log.say(f"preparing {', '.join(modalities)} from {config.source}; kept in {cache}")
        _build(config, modalities, listing, cache, log).save(folder)

    with unwinding():
        folder = build_or_load(cache, "data", _key(config, modalities, listing), make)
    bundle = DataBundle.load(folder)
    for line in [*listing.notes, *bundle.facts["notes"]]:  # of a cached preparation too
        log.say(line)
    counts = ", ".join(f"{n} {c:,}" for n, c in bundle.train.tokens_by_modality().items())
    log.say(
        f"{len(bundle.train):,} training windows ({counts}), {len(bundle.validation):,} held out"
    )
    return bundle


def _build(
    config: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    listing: Listing,
    cache: Path,
    log: StageLog,
) -> DataBundle:
    source = _source(config, modalities, listing, log)
    try:
        log.say(f"{len(source.training.documents):,} training documents")
        if config.tokenizers is not None:
            tokenizers = TokenizerSet.load(config.tokenizers)
        else:
            tokenizers = fit_tokenizers(config, modalities, source, cache, log)
        for name, length in tokenizers.max_length.items():
            check_length(config, name, length)  # a codec may know it when it is fitted, not before
        source.finish()
    finally:
        source.stop()
    splits = {"train": source.training, "validation": source.validation}
    encoded = {n: encode_corpus(c, tokenizers, source.bad, log) for n, c in splits.items()}
    facts: dict[str, Any] = {
        "config": config.cache_key(),
        "modalities": {name: modality.to_dict() for name, modality in modalities.items()},
        "skipped": len(source.bad.skipped),
        "skipped_because": source.bad.skipped[:MOST_REASONS],
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
    log.say("documents encoded and packed")
    facts["notes"] = [*source.notes, *_notes(config, modalities, facts)]
    return DataBundle(tokenizers, packed["train"], packed["validation"], source.examples(), facts)


def _notes(
    config: DataConfig, modalities: Mapping[str, ModalityConfig], facts: dict[str, Any]
) -> list[str]:
    """What a user should see about documents that did not come through whole."""
    notes = []
    if facts["skipped"]:
        first = facts["skipped_because"][0]
        notes.append(f"left out: {facts['skipped']:,} bad documents, first: {first}")
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
        tokenizer = modalities[TEXT].given.get("tokenizer") or "the text tokenizer"
        notes.append(
            f"not read: {unknown:,} stretches of text that {tokenizer} does not know; "
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
        whole=list(tokenizers.max_length),
        # one scene in 1,300 is too long; it is cut as it was for all figures that were published
        together=config.source != "digits",
    )


def _source(
    config: DataConfig, modalities: Mapping[str, ModalityConfig], listing: Listing, log: StageLog
) -> Source:
    if config.source == "digits":
        from .digits.source import DigitScenes

        return DigitScenes(config, modalities, log)
    from .user import UserDocuments

    return UserDocuments(config, modalities, listing, log)


def _key(
    config: DataConfig, modalities: Mapping[str, ModalityConfig], listing: Listing
) -> dict[str, Any]:
    """Everything that the data depends on, the source's files among it."""
    key: dict[str, Any] = {"version": VERSION, **config.cache_key()}
    key["versions"] = versions()  # apart: a package has the name of a field, tokenizers
    key["modalities"] = {name: modality.to_dict() for name, modality in modalities.items()}
    if config.source != "digits":
        key["documents"] = fingerprints(listing.documents)
    if config.tokenizers is not None:
        key["tokenizers"] = digests(Path(config.tokenizers))
    else:
        key["codecs"] = {n: codec_version(m.name, m.options) for n, m in modalities.items()}
    for name, modality in modalities.items():
        for option, found in option_digests(modality.options).items():
            key[f"{name}.{option}"] = found
    return key
