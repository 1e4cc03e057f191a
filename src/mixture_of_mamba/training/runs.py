"""Run folders: what is in them, who may write there, and reading them back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..files import PART, filling, read_json, verify, write_json, write_text, writing
from ..models import MultimodalModel
from ..models.saving import CONFIG, WEIGHTS
from .checkpoint import checkpoints, step_of
from .config import RunConfig
from .lock import LOCK, FolderLock

if TYPE_CHECKING:
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = [
    "Run",
    "check_data",
    "cleanup_on_failure",
    "has_finished",
    "load_run",
    "prepare_folder",
    "publish_model",
    "read_config",
    "start_of",
]

MOST_NAMED = 8
"""Runs that an error names."""

_FURTHER = " and a larger --train.steps"


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


def prepare_folder(lock: FolderLock, config: RunConfig, *, resume: bool) -> None:
    """Claim a folder for a run and write a new one's config.yaml.

    Args:
        lock: of the folder; held from here on.

    Raises:
        FileExistsError: it holds a run and `resume` is off.
        FileNotFoundError: it holds none and `resume` is on.
        FolderInUse: another process writes into it.
        ValueError: it holds a run of another config; the differing fields are named.
        WriteError: it cannot be written.
    """
    folder = lock.folder
    _check(folder, config, resume=resume)  # a folder that is refused stays as it is
    lock.acquire()
    _check(folder, config, resume=resume)  # another process may have had it until now
    if resume and (before := read_config(folder).train.steps) != config.train.steps:
        print(
            f"{folder} goes on to step {config.train.steps} (it was {before}); "
            "the learning rate follows the new schedule from here on",
            file=sys.stderr,
        )
    with writing(folder):
        (folder / "checkpoints").mkdir(exist_ok=True)
    for place in (folder, folder / "checkpoints"):
        for left in place.glob(f"{PART}*"):  # of a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not resume:  # of a run that goes on, when its data has been held against it
        write_config(folder, config)


def _check(folder: Path, config: RunConfig, *, resume: bool) -> None:
    if (folder / "config.yaml").is_file():
        if not resume:
            raise FileExistsError(
                f"{folder} already holds a run ({_progress(folder)}); continue it with --resume"
                f"{_FURTHER if (folder / 'model').is_dir() else ''}, "
                "or choose another name for --out"
            )
        if differences := read_config(folder).differences(config):
            raise ValueError(
                f"{folder} holds a run of another config: {'; '.join(differences)}; "
                "leave these fields as they were, or start a new run under another --out"
            )
        reached = step_of(saved[-1]) if (saved := checkpoints(folder)) else 0
        if config.train.steps < reached:
            raise ValueError(
                f"{folder} has reached step {reached}, but train.steps is {config.train.steps}; "
                f"it may grow: give {reached} or more"
            )
    elif resume:
        raise FileNotFoundError(f"{folder} holds no run to resume; leave out --resume to start one")
    elif folder.exists() and any(p.name != LOCK for p in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another --out")


@contextmanager
def cleanup_on_failure(folder: Path, *, ours: bool) -> Iterator[None]:
    """Inside, a run gets ready in a folder that `prepare_folder` has claimed. Where that fails,
    nothing stays in its way: the command can be given again, corrected.

    Args:
        ours: whether this process is to clear the folder (the first one, of a new run).
    """
    try:
        yield
    except BaseException:
        if ours:
            for name in ("config.yaml", "data.json"):
                (folder / name).unlink(missing_ok=True)
            for name in ("tokenizers", "checkpoints"):
                shutil.rmtree(folder / name, ignore_errors=True)
        raise


def check_data(folder: Path, data: Any) -> None:
    """Keep the digests of a run's data in data.json, or hold the data of a resumed run against it.

    Args:
        data: with `digests`, {what: digest}, and `made_from`, {what the data depends on: value};
            without them, nothing is kept and nothing is held.

    Raises:
        ValueError: the run began with other data; what changed is named.
    """
    digests, made_from = getattr(data, "digests", {}), getattr(data, "made_from", {})
    path = folder / "data.json"
    if not digests:
        return
    if not path.is_file():
        if checkpoints(folder):
            print(
                f"{folder} keeps no digest of its data, as runs of earlier versions do not: whether"
                " the data is still the same is not known; from here on it is",
                file=sys.stderr,
            )
        write_json(path, {"digests": digests, "made_from": made_from}, indent=1)
        return
    before = read_json(path)
    if before.get("digests", {}) == digests:
        return
    changed = _changed(before.get("digests", {}), digests)
    why = _changed(before.get("made_from", {}), made_from)
    because = f" (it is made from another {', '.join(why)})" if why else ""
    raise ValueError(
        f"{folder} was trained on other data: {', '.join(changed)} changed{because}; put back what "
        "it began with, or start a new run under another --out"
    )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


def write_config(folder: Path, config: RunConfig) -> None:
    """Write config.yaml, complete or not at all; where one call stops is not the run's business."""
    plain = config.to_dict()
    plain["train"]["stop_after"] = None
    write_text(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False))


def publish_model(folder: Path) -> None:
    """Make the newest checkpoint's model the run's `model/`.

    Raises:
        WriteError: it could not be written; the checkpoint is there, and --resume tries again.
        DamagedFile: the checkpoint was damaged meanwhile.
    """
    names, newest = (CONFIG, WEIGHTS), checkpoints(folder)[-1]
    verify(newest, names)
    with filling(folder / "model", anew=True) as part:
        for name in names:
            shutil.copyfile(newest / name, part / name)


def start_of(folder: Path, config: RunConfig) -> Path | None:
    """The pretrained model that a run begins with; None where weights are new or in a checkpoint.

    Raises:
        FileNotFoundError: it is not there.
    """
    start = config.model.init_from
    if start is None or checkpoints(folder):
        return None
    if not Path(start).is_dir():
        raise FileNotFoundError(
            f"model.init_from is {start!r}, which is no folder; give that of a pretrained model, "
            "or leave it out to start from new weights"
        )
    return Path(start)


def has_finished(folder: Path, steps: int) -> bool:
    """Whether a run has a checkpoint of step `steps` and the model made of it."""
    saved = checkpoints(folder)
    return (folder / "model").is_dir() and bool(saved) and step_of(saved[-1]) >= steps


def _progress(folder: Path) -> str:
    saved = checkpoints(folder)
    if (folder / "model").is_dir():
        return "finished"
    return f"with a checkpoint of step {step_of(saved[-1])}" if saved else "without a checkpoint"
