"""The run folder during training: claim it, record config and data digests, publish the model."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ..files import PART, filling, read_json, verify, write_json, write_text, writing
from ..models.saving import CONFIG, WEIGHTS
from .checkpoint_folders import checkpoints, step_of
from .config import FREE, RunConfig
from .lock import LOCK, FolderLock
from .runs import read_config

__all__ = [
    "check_data",
    "cleanup_on_failure",
    "prepare_folder",
    "publish_model",
    "write_config",
]

_FURTHER = " and a larger --train.steps"


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
    before = _check(folder, config, resume=resume)  # another process may have had it until now
    if before is not None and before.train.steps != config.train.steps:
        print(
            f"{folder} goes on to step {config.train.steps} (it was {before.train.steps}); "
            "the learning rate follows the new schedule from here on",
            file=sys.stderr,
        )
    with writing(folder):
        (folder / "checkpoints").mkdir(exist_ok=True)
    for place in (folder, folder / "checkpoints"):
        for left in place.glob(f"{PART}*"):  # of a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not resume:  # a resumed run writes it once its data was compared
        write_config(folder, config)


def _check(folder: Path, config: RunConfig, *, resume: bool) -> RunConfig | None:
    """Refuse a folder that the run cannot be in; the config of what is resumed there."""
    if (folder / "config.yaml").is_file():
        if not resume:
            raise FileExistsError(
                f"{folder} already holds a run ({_progress(folder)}); continue it with --resume"
                f"{_FURTHER if (folder / 'model').is_dir() else ''}, "
                "or choose another name for --out"
            )
        before = read_config(folder)
        if differences := before.differences(config, FREE | before.moved(config)):
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
        return before
    if resume:
        raise FileNotFoundError(f"{folder} holds no run to resume; leave out --resume to start one")
    if folder.exists() and any(p.name != LOCK for p in folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty and holds no run; choose another --out")
    return None


@contextmanager
def cleanup_on_failure(folder: Path, *, ours: bool) -> Iterator[None]:
    """Remove what a new run wrote into its folder if the body fails, so that the corrected command
    can be given again.

    Args:
        ours: whether this process is to clear the folder (the first one, of a new run).
    """
    try:
        yield
    except BaseException:
        if ours:
            for name in ("config.yaml", "data.json", "metrics.jsonl"):
                (folder / name).unlink(missing_ok=True)
            for name in ("tokenizers", "checkpoints", "tensorboard"):
                shutil.rmtree(folder / name, ignore_errors=True)
        raise


def check_data(folder: Path, data: Any) -> None:
    """Write the digests of a run's data to data.json, or compare the data of a resumed run with it.

    Args:
        data: with `digests`, {what: digest}, and `made_from`, {what the data depends on: value};
            without them, nothing is written and nothing compared.

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
    """Write config.yaml, complete or not at all, without stop_after, which is of one call only."""
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


def _progress(folder: Path) -> str:
    saved = checkpoints(folder)
    if (folder / "model").is_dir():
        return "finished"
    return f"with a checkpoint of step {step_of(saved[-1])}" if saved else "without a checkpoint"
