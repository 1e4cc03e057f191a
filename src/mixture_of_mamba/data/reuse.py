"""What reused tokenizers decide of a run's modalities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..modalities.config import ModalityConfig, resolved
from ..modalities.registry import name_of
from .config import DataConfig, check_modalities

__all__ = ["resolve"]


def resolve(
    data: DataConfig, modalities: Mapping[str, ModalityConfig]
) -> Mapping[str, ModalityConfig]:
    """The modalities with what reused tokenizers decide; paths are held against the disk.

    Raises:
        ValueError: a path that does not exist, or something that contradicts the tokenizers.
    """
    data.check_paths()
    for name, modality in modalities.items():
        if modality.codec is not None:
            _check_paths(name, modality)
    if data.tokenizers is None:
        return modalities
    from ..modalities.tokenizer_set import TokenizerSet  # torch, which reading a config needs not

    tokenizers = TokenizerSet.load(data.tokenizers)
    theirs = {
        name: (name_of(type(tokenizers.codec(name))), options)
        for name, options in tokenizers.options.items()
    }
    found = resolved(modalities, theirs, data.tokenizers)
    check_modalities(data, found)
    return found


def _check_paths(name: str, modality: ModalityConfig) -> None:
    options = modality.options
    for option in options.paths:
        path = getattr(options, option)
        if path is not None and not Path(path).exists():
            raise ValueError(
                f"modalities.{name}.{option} is {path!r}, which does not exist; give the path of a "
                "pretrained one, or leave it out"
            )
