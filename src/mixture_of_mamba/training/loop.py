"""The training loop: one for every setting and variant."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.config import OF_TOKENIZERS, DataConfig
from ..data.sampler import Schedule
from ..models import ModelConfig, MultimodalModel
from ..models.flops import flops_per_token
from ..ops import native
from ..processes import adopting, end_with_parent, unwinding
from ..seeding import torch_seed
from .checkpoint import checkpoints, load_checkpoint, on_rank_zero, save_checkpoint
from .config import RunConfig, model_config
from .distributed import make_fabric, shutdown, sum_over_ranks
from .evaluation import validation_losses
from .gradients import step_gradients
from .interrupt import Interrupt
from .launch import check_launch
from .lock import FolderLock
from .lr_schedule import learning_rate
from .metrics import Means, MetricsLog
from .objective import Objective
from .optimizer import make_optimizer
from .precision import resolve_precision
from .progress_bar import TrainProgressBar
from .random_state import isolated_rng
from .runs import (
    check_data,
    cleanup_on_failure,
    prepare_folder,
    publish_model,
    read_config,
    start_of,
    write_config,
)
from .tensorboard import TensorBoardLog

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Evaluation", "NonFiniteLoss", "TrainResult", "train"]

GRACE_SECONDS = 300.0
"""For the last checkpoint of a run whose parent process is gone."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient became NaN or infinite; the message names step and modality."""


@dataclass(frozen=True)
class Evaluation:
    """What a callback gets after each evaluation, on the first process.

    Attributes:
        step: that was evaluated.
        model: in evaluation mode; what the callback draws does not disturb the training.
        data: what `build` returned.
        writer: TensorBoard's SummaryWriter, or None.
    """

    step: int
    model: MultimodalModel
    data: Any
    writer: Any


@dataclass(frozen=True)
class TrainResult:
    """How a call ended: the step it reached, and whether that was the last one."""

    folder: Path
    step: int
    finished: bool


def train(
    config: RunConfig,
    folder: str | Path,
    *,
    build: Callable[[DataConfig], Any],
    start: Callable[[ModelConfig], MultimodalModel] | None = None,
    resume: bool = False,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> TrainResult:
    """Train a run, from its beginning or from its newest checkpoint.

    Args:
        config: of the run.
        folder: gets config.yaml, metrics.jsonl, checkpoints/, tokenizers/ and at the end model/.
        build: makes `tokenizers`, `train` and `validation` of a DataConfig; called on the first
            process first, so that the others find the cache filled.
        start: makes the first weights where config.model.init_from names some; interop.Start has
            checked them before data is prepared, interop.start_from checks them after.
        resume: continue what is in `folder`.
        on_evaluation: called after each evaluation, e.g. to show decoded samples.

    One process writes into the folder at a time. SIGTERM and SIGHUP count as Ctrl-C: while data is
    prepared they end the call with nothing left behind, later with a checkpoint.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: the folder does not fit; see prepare_folder.
        FolderInUse: another process writes into it.
        WriteError: the disk is full, or the folder may not be written.
        NonFiniteLoss: the training diverged; the last good checkpoint stays.
        CheckpointError: a checkpoint could not be written.
    """
    check_launch(config.train.devices)
    folder = Path(folder)
    if any(getattr(config.data, name) is None for name in OF_TOKENIZERS):
        # Reused tokenizers decide what was left out; config.yaml records it.
        from ..data.build import settled

        config = replace(config, data=settled(config.data))
    if config.train.precision == "auto":
        held = read_config(folder) if (folder / "config.yaml").is_file() else None
        config = resolve_precision(config, held)
    if start_of(folder, config) is None:
        start = None  # the weights are new, or those of a checkpoint
    elif start is None:
        raise ValueError(
            f"model.init_from is {config.model.init_from!r}, but train was given no `start` to "
            "read it with; pass start=lambda c: start_from(config.model.init_from, c) of interop"
        )
    further = os.environ.get("LOCAL_RANK", "0") != "0"
    end_with_parent(grace=0.0 if further else GRACE_SECONDS)  # a further process writes nothing
    lock = FolderLock(folder)
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
            interrupt = Interrupt()
            with cleanup_on_failure(folder, ours=fabric.global_rank == 0 and not resume):
                with fabric.rank_zero_first():
                    data = build(config.data)
                on_rank_zero(fabric, lambda: _keep_facts(folder, data, config))
                if fabric.device.type == "cpu":
                    native.why_not()  # compiles the kernels where needed, before the clock runs
                training = _Training(fabric, config, folder, data, start, on_evaluation, interrupt)
            with interrupt:
                result = training.run()
            fabric.barrier()
            return result
        finally:
            shutdown(fabric)
            lock.release()


def _keep_facts(folder: Path, data: Any, config: RunConfig) -> None:
    check_data(folder, data)
    write_config(folder, config)
    if not (folder / "tokenizers").is_dir():
        data.tokenizers.save(folder / "tokenizers")


class _Training:
    """The parts of one run, put together; `run` is the loop."""

    def __init__(
        self,
        fabric: Fabric,
        config: RunConfig,
        folder: Path,
        data: Any,
        start: Callable[[ModelConfig], MultimodalModel] | None,
        on_evaluation: Callable[[Evaluation], None] | None,
        interrupt: Interrupt,
    ) -> None:
        self.fabric, self.folder, self.data = fabric, folder, data
        self.on_evaluation, self.interrupt = on_evaluation, interrupt
        self.config = c = config.train
        self.first = fabric.global_rank == 0
        network = model_config(config.model, data.tokenizers.modalities)
        # Initial values have seeds of their own.
        torch.manual_seed(torch_seed(c.seed + fabric.global_rank))
        self.model = MultimodalModel(network, seed=c.seed) if start is None else start(network)
        self.model.backbone.checkpoint_activations = c.activation_checkpointing
        self.objective = Objective(self.model)
        self.module = fabric.setup_module(self.objective)
        self.optimizer = make_optimizer(self.objective.named_parameters(), c)
        self.stepper: Any = fabric.setup_optimizers(self.optimizer)
        self.order = Schedule(len(data.train), c.seed)
        self.position = load_checkpoint(fabric, folder, self.objective, self.optimizer)
        self.saved = self.position.step
        self.means = Means(network.modalities, self.position.rows)
        self.pending: list[torch.Tensor] = []
        self.tokens = c.batch_size * config.data.window
        counts = data.train.tokens_by_modality() if self.model.diffusion is not None else None
        each = flops_per_token(network, window=config.data.window, counts=counts)
        self.flops = self.tokens * each

    def run(self) -> TrainResult:
        """Train to the last step, or to an interruption."""
        c, start = self.config, self.position.step
        self.log = MetricsLog(self.folder / "metrics.jsonl", up_to=start) if self.first else None
        self.board = TensorBoardLog(self.folder, step=start, enabled=c.tensorboard and self.first)
        self.progress = TrainProgressBar(c, start=start, quiet=not self.first)
        self.module.train()
        try:
            while self.position.step < min(c.steps, c.stop_after or c.steps):
                if self._interrupted():
                    break
                self._step()
            if self.saved < self.position.step:
                self._checkpoint()
            finished = self.position.step >= c.steps
            if finished:
                on_rank_zero(self.fabric, lambda: publish_model(self.folder))
            return TrainResult(self.folder, self.position.step, finished)
        finally:
            self.progress.close()
            self.board.close()
            if self.log is not None:
                self.log.close()

    def _step(self) -> None:
        """One optimizer step, and what is due after it."""
        c = self.config
        began = time.perf_counter()
        self.position.step = step = self.position.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, c)
        self.optimizer.zero_grad(set_to_none=True)
        sums, norm = step_gradients(self.fabric, self.module, self.data.train, self.order, c, step)
        self.stepper.step()
        self.pending.append(torch.cat([norm.float()[None], sums]))
        self.progress.step()
        log, evaluate, save = (
            step == c.steps or step % every == 0
            for every in (c.log_every, c.evaluate_every, c.checkpoint_every)
        )
        # Reading a loss waits for the device: every step on the CPU, where it is free, else rarely.
        if log or evaluate or save or self.fabric.device.type == "cpu":
            self._collect()
        self.position.seconds += time.perf_counter() - began
        if log:
            self._write("train", *self.means.compute_and_reset(), gradient_norm=self.norm)
        if evaluate and len(self.data.validation):
            self._evaluate()
        if save:
            self._checkpoint()

    def _collect(self) -> None:
        """Read the sums of the latest steps; stop where one is not finite."""
        first = self.position.step - len(self.pending) + 1
        rows = torch.stack(self.pending).tolist()
        self.pending = []
        for step, (norm, *row) in enumerate(rows, first):
            if not all(map(math.isfinite, (norm, *row))):
                raise NonFiniteLoss(self._diverged(self._culprit(norm, row), step))
            self.means.add(row)
            self.norm = norm

    def _culprit(self, norm: float, row: list[float]) -> str:
        totals = zip(self.means.modalities, row, strict=False)
        bad = [modality.name for modality, total in totals if not math.isfinite(total)]
        return f"the loss of {' and '.join(bad)}" if bad else "the norm of the gradients"

    def _diverged(self, what: str, step: int | None = None) -> str:
        step = step or self.position.step
        saved = checkpoints(self.folder)
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
        return (
            f"{what} became NaN or infinite at step {step}; {kept}; lower train.learning_rate, "
            "lengthen train.warmup, or look at the data of this modality"
        )

    def _interrupted(self) -> bool:
        """Whether any process was asked to stop; all of them find out at the same step."""
        if self.fabric.world_size == 1:
            return self.interrupt.requested
        asked = torch.tensor(float(self.interrupt.requested), device=self.fabric.device)
        return bool(sum_over_ranks(self.fabric, asked).item())

    def _write(self, phase: str, loss: float, losses: dict[str, float | None], **more: Any) -> None:
        """One line of metrics.jsonl, and the same for TensorBoard and the progress bar."""
        step, seconds = self.position.step, self.position.seconds
        rate = step * self.tokens / max(seconds, 1e-9)
        line = {
            "phase": phase,
            "step": step,
            "tokens": step * self.tokens,
            "flops": step * self.flops,
            "seconds": round(seconds, 4),
            "learning_rate": learning_rate(step, self.config),
            "loss": loss,
            "losses": losses,
        } | more
        if phase == "train":
            line["tokens_per_second"] = round(rate, 1)
            self.progress.losses(losses, rate)
        else:
            self.progress.evaluated(step, losses, rate)
        if self.log is not None:
            self.log.write(line)
            self.board.write(line)

    def _evaluate(self) -> None:
        loss, losses, levels = validation_losses(
            self.fabric, self.module, self.data.validation, self.config
        )
        bad = [name for name, value in losses.items() if value and not math.isfinite(value)]
        if bad:
            raise NonFiniteLoss(self._diverged(f"the validation loss of {' and '.join(bad)}"))
        self._write("validation", loss, losses, **({"noise_levels": levels} if levels else {}))
        divided = self.fabric.world_size > 1 and self.config.strategy == "fsdp"
        if self.on_evaluation is not None and self.first and not divided:
            self.model.eval()
            with isolated_rng(self.config.seed), torch.no_grad():
                step, writer = self.position.step, self.board.writer
                self.on_evaluation(Evaluation(step, self.model, self.data, writer))
            self.model.train()

    def _checkpoint(self) -> None:
        """Save; the log reaches the disk first, so that it is never behind a checkpoint."""
        if self.pending:
            self._collect()
        if self.log is not None:
            self.log.sync()
        self.position.rows = self.means.rows
        save_checkpoint(
            self.fabric,
            self.folder,
            self.objective,
            self.optimizer,
            self.position,
            keep=self.config.keep_checkpoints,
        )
        self.saved = self.position.step
