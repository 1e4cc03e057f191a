"""Run folders: what is in them, who may write there, and reading them back."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..models import MultimodalModel
from .checkpoint import checkpoints, step_of
from .config import RunConfig

if TYPE_CHECKING:
    from ..data.tokenizers import TokenizerSet

__all__ = ["Run", "beginning", "load_run", "prepare_folder", "publish_model", "read_config"]


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
    from ..data.tokenizers import TokenizerSet

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
            f"{folder} holds no run: config.yaml is missing; give a folder that mom train wrote"
        )
    return RunConfig.from_dict(read_yaml(path), str(path))


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


def prepare_folder(folder: Path, config: RunConfig, *, resume: bool) -> None:
    """Claim a folder for a run and write its config.yaml.

    Raises:
        FileExistsError: it holds a run and `resume` is off.
        FileNotFoundError: it holds none and `resume` is on.
        ValueError: it holds a run of another config; the differing fields are named.
    """
    if (folder / "config.yaml").is_file():
        if not resume:
            raise FileExistsError(
                f"{folder} already holds a run ({_progress(folder)}); continue it with --resume, "
                "or choose another name for --out"
            )
        before = read_config(folder)
        if differences := before.differences(config):
            raise ValueError(
                f"{folder} holds a run of another config: {'; '.join(differences)}; "
                "leave these fields as they were, or start a new run under another --out"
            )
        if before.train.steps != config.train.steps:
            print(
                f"{folder} goes on to step {config.train.steps} (it was {before.train.steps}); "
                "the learning rate follows the new schedule from here on",
                file=sys.stderr,
            )
    elif resume:
        raise FileNotFoundError(f"{folder} holds no run to resume; leave out --resume to start one")
    elif folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another --out")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for left in (folder / "checkpoints").glob(".*.part"):
        shutil.rmtree(left, ignore_errors=True)
    write_config(folder, config)


@contextmanager
def beginning(folder: Path, *, ours: bool) -> Iterator[None]:
    """Inside, a run gets ready in a folder that `prepare_folder` has claimed. Where that fails,
    nothing stays in its way: the command can be given again, corrected.

    Args:
        ours: whether this process is to clear the folder (the first one, of a new run).
    """
    try:
        yield
    except BaseException:
        if ours:
            (folder / "config.yaml").unlink(missing_ok=True)
            shutil.rmtree(folder / "tokenizers", ignore_errors=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


def write_config(folder: Path, config: RunConfig) -> None:
    """Write config.yaml, complete or not at all; where one call stops is not the run's business."""
    plain = config.to_dict()
    plain["train"]["stop_after"] = None
    part = folder / "config.yaml.part"
    with part.open("w", encoding="utf-8") as file:
        yaml.safe_dump(plain, file, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / "config.yaml")


def publish_model(folder: Path) -> None:
    """Make the newest checkpoint's model the run's `model/`."""
    part = folder / ".model.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(checkpoints(folder)[-1] / name, part / name)
    shutil.rmtree(folder / "model", ignore_errors=True)
    part.rename(folder / "model")


def _progress(folder: Path) -> str:
    saved = checkpoints(folder)
    if (folder / "model").is_dir():
        return "finished"
    return f"with a checkpoint of step {step_of(saved[-1])}" if saved else "without a checkpoint"
