"""What reused tokenizers decide of a run's modalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path

from ..modalities.config import ModalityConfig, resolved
from ..modalities.recorded import FILE, RecordedCodec, read_codecs
from .config import DataConfig, check_length, check_modalities

__all__ = ["resolve", "resolve_own"]


def resolve(
    data: DataConfig, modalities: Mapping[str, ModalityConfig]
) -> Mapping[str, ModalityConfig]:
    """The modalities with what reused tokenizers, or the files that they name, decide; paths are
    held against the disk.

    Raises:
        ValueError: a path that does not exist, or something that contradicts the tokenizers.
    """
    data.check_paths()
    if data.tokenizers is None:
        for name, modality in modalities.items():
            if modality.codec is not None:
                _check_files(name, modality)
        return {name: _completed(modality) for name, modality in modalities.items()}
    recorded = read_codecs(Path(data.tokenizers)) or _loaded(data.tokenizers)
    theirs = {name: (codec.name, codec.options) for name, codec in recorded.items()}
    found = resolved(modalities, theirs, data.tokenizers)
    check_modalities(data, found)
    for name, codec in recorded.items():
        if codec.max_length is not None:  # which options that lost their folder may not know
            check_length(data, name, codec.max_length)
    return found


def resolve_own(
    data: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    own: Path | None,
    say: Callable[[str], None],
) -> tuple[DataConfig, Mapping[str, ModalityConfig]]:
    """The data and modalities of a run that was begun, as `resolve` gives them. Where files that
    its modalities name are gone, the tokenizers that it was begun with are reused: what was made of
    these files is stored with them.

    Args:
        own: the folder of these tokenizers, which may not be there yet; None: there is no run.
        say: takes a line where they are reused.

    Raises:
        ValueError: as `resolve`.
    """
    try:
        return data, resolve(data, modalities)
    except (FileNotFoundError, ValueError) as error:
        if own is None or data.tokenizers is not None or not (own / FILE).is_file():
            raise
        reused = replace(data, tokenizers=str(own))
        found = resolve(reused, {})
        say(f"{error}; the tokenizers in {own} are used instead")
        return reused, found


def _completed(modality: ModalityConfig) -> ModalityConfig:
    options = modality.options
    found = options.completed()
    return modality if found == options else ModalityConfig(modality.codec, asdict(found))


def _loaded(folder: str) -> dict[str, RecordedCodec]:
    """Of tokenizers that do not record them."""
    from ..modalities.tokenizer_set import TokenizerSet  # torch, which reading a config needs not

    return TokenizerSet.load(folder).recorded


def _check_files(name: str, modality: ModalityConfig) -> None:
    options = modality.options
    try:
        options.check_files()
    except (FileNotFoundError, ValueError) as error:
        option = str(error).split(maxsplit=1)[0].partition(".")[0].rstrip(":")
        joint = "." if option in {field.name for field in fields(options)} else ": "
        raise type(error)(f"modalities.{name}{joint}{error}") from error
