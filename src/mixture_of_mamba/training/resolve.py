"""Resolves what a run's config leaves open, before anything is written into its folder."""

from __future__ import annotations

from pathlib import Path

from ..interop.start import Start
from .checkpoint_folders import checkpoints
from .config import RunConfig, model_config
from .freeze import resolve_freeze
from .precision import resolve_precision
from .runs import read_config

__all__ = ["resolve_run"]


def resolve_run(config: RunConfig, folder: Path) -> tuple[RunConfig, Start | None]:
    """A config as it is recorded, and the pretrained model that the run starts from.

    Reused tokenizers decide what is left out of `modalities`, a measurement decides precision
    "auto", and the pretrained model or the run in the folder decides what is frozen.

    Raises:
        FileNotFoundError, ValueError: tokenizers or a pretrained model that are not there or do not
            fit the config.
    """
    before = read_config(folder) if (folder / "config.yaml").is_file() else None
    config = resolve_precision(config.resolved(), before)
    start = _pretrained(config, folder)
    return resolve_freeze(config, before, start), start


def _pretrained(config: RunConfig, folder: Path) -> Start | None:
    """The model that a run begins with; None where its weights are new, or in a checkpoint."""
    start = config.model.init_from
    if start is None or checkpoints(folder):
        return None
    if not Path(start).is_dir():
        raise FileNotFoundError(
            f"model.init_from is {start!r}, which is no folder; give that of a pretrained model, "
            "or leave it out to start from new weights"
        )
    known = config.data.tokenizers is None  # else the tokenizers' size is known with the data
    sizes = []
    for name, modality in config.modalities.items():
        size = getattr(modality.options, "vocabulary", 1) if known else 1
        sizes.append((name, modality.kind, size))
    return Start(start, model_config(config.model, sizes))
