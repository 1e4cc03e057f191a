"""The training loop: one for every setting and variant."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.build import build as build_data
from ..data.sampler import Schedule
from ..interop.start import Start
from ..models import MultimodalModel
from ..models.flops import flops_per_token
from ..ops import native
from ..processes import adopting, end_with_parent, unwinding
from ..seeding import torch_seed
from .checkpoint import load_checkpoint, save_checkpoint
from .config import RunConfig, model_config
from .distributed import any_rank, is_first_process, make_fabric, on_rank_zero, shutdown
from .evaluation import validation_losses
from .folder import check_data, cleanup_on_failure, prepare_folder, publish_model, write_config
from .freeze import freeze_parts
from .gradients import accumulate_gradients
from .interrupt import Interrupt
from .launch import check_launch
from .lock import FolderLock
from .lr_schedule import learning_rate
from .objective import Objective
from .optimizer import make_optimizer
from .random_state import isolated_rng
from .resolve import resolve_run
from .run_log import RunLog
from .step_sums import NonFiniteLoss, StepSums, check_finite

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Evaluation", "NonFiniteLoss", "TrainResult", "Trainer", "train"]

#: Seconds for the last checkpoint of a run whose parent process is gone.
GRACE_SECONDS = 300.0


@dataclass(frozen=True)
class Evaluation:
    """What a callback gets after each evaluation, on the first process.

    Attributes:
        step: that was evaluated.
        model: in evaluation mode; what the callback draws does not disturb the training.
        data: of the run: `tokenizers`, `train`, `validation`, `validation_examples`.
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
        build: data of your own: makes `tokenizers`, `train` and `validation` of config.data in
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
    # A process that another one of this run started writes nothing, and need not wait.
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
                    data = _build(config, build)
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


def _build(config: RunConfig, build: Callable[..., Any] | None) -> Any:
    if build is not None:
        return build(config.data)
    return build_data(config.data, progress=is_first_process())


def _record(folder: Path, config: RunConfig, data: Any) -> None:
    """Write what is known of a run once its data is there."""
    check_data(folder, data)
    write_config(folder, config)
    if not (folder / "tokenizers").is_dir():
        data.tokenizers.save(folder / "tokenizers")


class Trainer:
    """The model, optimizer, data and log of one run. `run` trains a step, evaluates and saves."""

    def __init__(
        self, fabric: Fabric, config: RunConfig, folder: Path, data: Any, *, start: Start | None
    ) -> None:
        self.fabric, self.folder, self.data = fabric, folder, data
        self.config = c = config.train
        self._build_model(config, start)
        self.state = load_checkpoint(fabric, folder, self.objective, self.optimizer)
        self.sampler = Schedule(len(data.train), c.seed)
        self.sums = StepSums(folder, self.model.config.modalities, self.state.unlogged)
        tokens = c.batch_size * config.data.window
        counts = data.train.tokens_by_modality() if self.model.diffusion.modalities else None
        flops = flops_per_token(self.model.config, window=config.data.window, counts=counts)
        self.log = RunLog(
            folder, c, self.state, tokens=tokens, flops=tokens * flops, on=fabric.global_rank == 0
        )

    def _build_model(self, config: RunConfig, start: Start | None) -> None:
        c, fabric = config.train, self.fabric
        network = model_config(config.model, self.data.tokenizers.modalities)
        torch.manual_seed(torch_seed(c.seed + fabric.global_rank))  # initial values have their own
        if start is None:
            self.model = MultimodalModel(network, seed=c.seed)
        else:
            self.model = start(network, seed=c.seed)
        self.model.backbone.checkpoint_activations = c.activation_checkpointing
        self.frozen = freeze_parts(self.model, config.model.freeze, quiet=fabric.global_rank != 0)
        self.objective = Objective(self.model)
        self.module = fabric.setup_module(self.objective)
        self.optimizer = make_optimizer(self.objective.named_parameters(), c)

    def run(
        self, interrupt: Interrupt, on_evaluation: Callable[[Evaluation], None] | None = None
    ) -> TrainResult:
        """Train to the last step, or until `interrupt` is requested on any process."""
        c, state = self.config, self.state
        saved = state.step
        self.module.train()
        while state.step < min(c.steps, c.stop_after or c.steps):
            if any_rank(self.fabric, interrupt.requested):
                break
            self.train_step()
            if self._due(c.log_every):
                self.log.train(state, *self.sums.compute_and_reset(), self.sums.norm)
            if self._due(c.evaluate_every) and len(self.data.validation):
                self.evaluate(on_evaluation)
            if self._due(c.checkpoint_every):
                self.save()
                saved = state.step
        if saved < state.step:
            self.save()
        finished = state.step >= c.steps
        if finished:
            on_rank_zero(self.fabric, lambda: publish_model(self.folder))
        return TrainResult(self.folder, state.step, finished)

    def train_step(self) -> None:
        """One optimizer step."""
        c = self.config
        began = time.perf_counter()
        self.state.step = step = self.state.step + 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, c)
        self.optimizer.zero_grad(set_to_none=True)
        sums, norm = accumulate_gradients(
            self.fabric, self.module, self.data.train, self.sampler, c, step
        )
        self.optimizer.step()
        self.sums.add_step(step, sums, norm)
        self.log.step()
        # Reading a loss waits for the device: every step on the CPU, where it is free, else rarely.
        every = (c.log_every, c.evaluate_every, c.checkpoint_every)
        if self.fabric.device.type == "cpu" or any(map(self._due, every)):
            self.sums.read()
        self.state.seconds += time.perf_counter() - began

    def evaluate(self, on_evaluation: Callable[[Evaluation], None] | None = None) -> None:
        """Validation losses, and the callback on the first process."""
        c, state = self.config, self.state
        loss, losses, levels = validation_losses(self.fabric, self.module, self.data.validation, c)
        check_finite(losses, state.step, self.folder)
        self.log.validation(state, loss, losses, levels)
        sharded = self.fabric.world_size > 1 and c.strategy == "fsdp"
        if on_evaluation is not None and self.fabric.global_rank == 0 and not sharded:
            self.model.eval()
            with isolated_rng(c.seed), torch.no_grad():
                on_evaluation(Evaluation(state.step, self.model, self.data, self.log.writer))
            self.model.train()

    def save(self) -> None:
        """Write a checkpoint; the log reaches the disk first, so that it is never behind one."""
        self.sums.read()
        self.log.sync()
        self.state.unlogged = self.sums.rows
        save_checkpoint(
            self.fabric,
            self.folder,
            self.objective,
            self.optimizer,
            self.state,
            keep=self.config.keep_checkpoints,
        )

    def close(self) -> None:
        """Close the log, and let go of what is frozen."""
        self.log.close()
        if self.frozen is not None:
            self.frozen.release()

    def _due(self, every: int) -> bool:
        """Whether something that happens every so many steps, and at the end, is due now."""
        return self.state.step == self.config.steps or self.state.step % every == 0
