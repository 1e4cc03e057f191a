"""`train`: one run from its config to its last step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ..data.build import build as build_data
from ..ops import native
from ..processes import adopting, end_with_parent, unwinding
from .config import RunConfig
from .distributed import is_first_process, make_fabric, on_rank_zero, shutdown
from .folder import check_data, cleanup_on_failure, prepare_folder, write_config
from .interrupt import Interrupt
from .launch import check_launch
from .lock import FolderLock
from .resolve import resolve_run
from .step_sums import NonFiniteLoss
from .trainer import Evaluation, Trainer, TrainResult

__all__ = ["Evaluation", "NonFiniteLoss", "TrainResult", "train"]

#: Seconds for the last checkpoint of a run whose parent process has ended.
GRACE_SECONDS = 300.0


def train(
    config: RunConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    build: Callable[..., Any] | None = None,
) -> TrainResult:
    """Train a run: prepare its data, make its model, and train to the last step.

    The folder gets config.yaml, metrics.jsonl (one object a line), checkpoints/, tokenizers/ and at
    the end model/, which `MultimodalModel.from_pretrained` and `load_run` read. One process writes
    into a folder at a time. Ctrl-C, SIGTERM and SIGHUP end the training after its current step with
    a checkpoint; while data is still being prepared, they end the call with nothing left behind.

    Args:
        config: of the run: its data, its model, its training.
        folder: of the run; new or empty, unless `resume` is given.
        resume: continue the run in `folder` from its newest checkpoint.
        on_evaluation: called after each evaluation, e.g. to show decoded samples.
        build: data of your own: makes `tokenizers`, `train` and `validation` of the config in
            place of `data.build.build`.

    Returns:
        the step that was reached, and whether it is the last one.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: the folder, the data or the pretrained model
            do not fit the config; the message says what to change.
        FolderInUse: another process writes into the folder.
        WriteError: the disk is full, or the folder may not be written.
        NonFiniteLoss: the training diverged; the last good checkpoint stays.
        CheckpointError: a checkpoint could not be written.

    Example:
        >>> config = RunConfig.from_dict({"train": {"steps": 500}})
        >>> train(config, "runs/a").finished
        True
    """
    check_launch(config.train.devices)
    folder = Path(folder)
    config, start = resolve_run(config, folder)
    # Only the first process writes a last checkpoint, which takes its time.
    end_with_parent(grace=GRACE_SECONDS if is_first_process() else 0.0)
    lock, interrupt = FolderLock(folder), Interrupt()
    with unwinding():
        fabric = make_fabric(config.train)
        with adopting():
            fabric.launch()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        try:
            on_rank_zero(fabric, lambda: prepare_folder(lock, config, resume=resume))
            for remark in config.train.remarks() if fabric.global_rank == 0 else ():
                print(remark, file=sys.stderr)
            with cleanup_on_failure(folder, ours=fabric.global_rank == 0 and not resume):
                with fabric.rank_zero_first():  # the others find the cache filled
                    data = _build(config, folder, build)
                on_rank_zero(fabric, lambda: _record(folder, config, data))
                if fabric.device.type == "cpu":
                    native.why_not()  # compiles the kernels where needed, before the clock runs
                trainer = Trainer(fabric, config, folder, data, start=start)
            with interrupt, closing(trainer):
                result = trainer.run(interrupt, on_evaluation)
            fabric.barrier()
            return result
        finally:
            shutdown(fabric)
            lock.release()


def _build(config: RunConfig, folder: Path, build: Callable[..., Any] | None) -> Any:
    if build is not None:
        return build(config)
    own = folder / "tokenizers"
    return build_data(config.data, config.modalities, progress=is_first_process(), own=own)


def _record(folder: Path, config: RunConfig, data: Any) -> None:
    """Write what is known of a run once its data is there."""
    check_data(folder, data)
    write_config(folder, config)
    if not (folder / "tokenizers").is_dir():
        data.tokenizers.save(folder / "tokenizers")
