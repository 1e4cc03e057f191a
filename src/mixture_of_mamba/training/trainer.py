"""The training loop: steps, evaluations and checkpoints of one run, whatever its modalities."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data.sampler import ShuffledSampler
from ..interop.start import Start
from ..models import MultimodalModel
from ..models.flops import flops_per_token
from ..seeding import torch_seed
from .checkpoint import load_checkpoint, save_checkpoint
from .config import RunConfig, model_config
from .distributed import any_rank, on_rank_zero
from .evaluation import validation_losses
from .folder import publish_model
from .freeze import freeze_parts
from .gradients import accumulate_gradients
from .interrupt import Interrupt
from .lr_schedule import learning_rate
from .objective import Objective
from .optimizer import make_optimizer
from .random_state import isolated_rng
from .run_log import RunLog
from .step_sums import StepSums, check_finite

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["Evaluation", "TrainResult", "Trainer"]


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


class Trainer:
    """The model, optimizer, data and log of one run. `run` trains a step, evaluates and saves."""

    def __init__(
        self, fabric: Fabric, config: RunConfig, folder: Path, data: Any, *, start: Start | None
    ) -> None:
        self.fabric, self.folder, self.data = fabric, folder, data
        self.config = c = config.train
        self._build_model(config, start)
        self.state = load_checkpoint(fabric, folder, self.objective, self.optimizer)
        self.sampler = ShuffledSampler(len(data.train), c.seed)
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
        # For what users draw; initial values and noise have seeds of their own.
        torch.manual_seed(torch_seed(c.seed + fabric.global_rank))
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
        """Close the log, and release the frozen parts."""
        self.log.close()
        if self.frozen is not None:
            self.frozen.release()

    def _due(self, every: int) -> bool:
        """Whether what happens every `every` steps, and at the last one, is due now."""
        return self.state.step == self.config.steps or self.state.step % every == 0
