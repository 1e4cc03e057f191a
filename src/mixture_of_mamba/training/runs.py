"""Loading runs from their folders: config, model and tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .checkpoint_folders import checkpoints, step_of
from .config import RunConfig

if TYPE_CHECKING:
    from ..modalities.tokenizer_set import TokenizerSet
    from ..models import MultimodalModel

__all__ = ["Run", "has_finished", "load_run", "read_config", "read_yaml"]

#: Runs that an error names.
MOST_NAMED = 8


@dataclass(frozen=True)
class Run:
    """A finished run, or one that has reached its first checkpoint.

    Attributes:
        config: from config.yaml.
        model: of `model/`, else of the newest checkpoint; on the CPU, in evaluation mode.
        tokenizers: that the run's data was made with.
        folder: where it lies.
    """

    config: RunConfig
    model: MultimodalModel
    tokenizers: TokenizerSet
    folder: Path


def load_run(folder: str | Path) -> Run:
    """Read a run back.

    Raises:
        FileNotFoundError: the folder holds no run, or one that has no model yet.
        ValueError: a damaged or foreign file in it.
    """
    from ..modalities.tokenizer_set import TokenizerSet
    from ..models import MultimodalModel  # here: a config is read without torch

    folder = Path(folder)
    config = read_config(folder)
    where = [path for path in [folder / "model", *reversed(checkpoints(folder))] if path.is_dir()]
    if not where:
        raise FileNotFoundError(
            f"{folder} has no model yet (neither model/ nor a checkpoint); finish it with "
            f"mom train --out {folder} --resume"
        )
    model = MultimodalModel.from_pretrained(where[0]).eval()
    return Run(config, model, TokenizerSet.load(folder / "tokenizers"), folder)


def read_config(folder: Path) -> RunConfig:
    """The config.yaml of a run.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: config.yaml is damaged or has unknown fields.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no run: config.yaml is missing; {_runs_below(folder)}"
        )
    return RunConfig.from_dict(read_yaml(path), str(path))


def _runs_below(folder: Path) -> str:
    """What to give instead: the runs that a comparison's folder holds, where it is one."""
    runs = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not runs:
        return "give a folder that mom train wrote"
    more = f" and {len(runs) - MOST_NAMED} more" if len(runs) > MOST_NAMED else ""
    return f"give one of the runs in it: {', '.join(map(str, runs[:MOST_NAMED]))}{more}"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ValueError: it does not.
    """
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds no mapping; it needs fields such as train: {{steps: 500}}")
    return plain


def has_finished(folder: Path, steps: int) -> bool:
    """Whether a run has a checkpoint of step `steps` and the model made of it."""
    saved = checkpoints(folder)
    return (folder / "model").is_dir() and bool(saved) and step_of(saved[-1]) >= steps
