"""Checkpoints: complete or absent, never half; the previous one stays until the next is safe.

A checkpoint is a folder `step-00000500`: the model as `save_pretrained` writes it (so that any
checkpoint can be loaded as a model), `optimizer.safetensors`, and `training.json` with the position
in the run and the random number generators. It is written under a temporary name, brought to the
disk, and renamed. Its `SHA256SUMS` is verified at resume. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..files import WriteError, filling, read_json, verify
from ..models.saving import WEIGHTS, check_tensors, read_tensors, write_model
from .objective import Objective
from .random_state import random_state, set_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "CheckpointError",
    "TrainState",
    "checkpoints",
    "load_checkpoint",
    "on_rank_zero",
    "save_checkpoint",
    "step_of",
]


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the message names the one that can be used."""


@dataclass(kw_only=True)
class TrainState:
    """How far a run is.

    Attributes:
        step: optimizer steps done; the data and the learning rate follow from it.
        seconds: training time so far, without evaluations and checkpoints.
        rows: sums of the steps that the log has no line for yet.
    """

    step: int = 0
    seconds: float = 0.0
    rows: list[list[float]] = field(default_factory=list)


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("step-*") if p.is_dir())


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(
    fabric: Fabric,
    folder: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    position: TrainState,
    *,
    keep: int,
) -> None:
    """Write a checkpoint and remove the oldest beyond `keep`; all processes call it together.

    Raises:
        CheckpointError: it could not be written; what was there before is untouched.
    """
    full = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(objective, options=full)
    moments: Any = get_optimizer_state_dict(objective, optimizer, options=full)
    generators = _gather(fabric, random_state())

    def write() -> None:
        final = folder / "checkpoints" / f"step-{position.step:08d}"
        try:
            with filling(final, anew=True) as part:
                state = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
                write_model(objective.model, part, state)
                save_file(_flatten(moments["state"]), part / "optimizer.safetensors")
                training = {"position": asdict(position), "random": generators}
                (part / "training.json").write_text(json.dumps(training))
        except WriteError as error:
            raise CheckpointError(_failed(folder, position.step, error)) from error
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    on_rank_zero(fabric, write)


def load_checkpoint(
    fabric: Fabric, folder: Path, objective: Objective, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restore the newest checkpoint that can be read; position 0 where a run has none.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
        ValueError: the checkpoint's tensors do not fit the model.
    """
    read: list[tuple[Any, ...]] = []

    def newest() -> None:
        problems = []
        for path in reversed(checkpoints(folder)):
            try:
                read.append(_read(path, objective))
                return
            except (OSError, ValueError, KeyError) as error:
                problems.append(f"{path.name}: {error}")
                print(f"skipping the damaged checkpoint {path}: {error}", file=sys.stderr)
        if problems:
            raise CheckpointError(f"no checkpoint of {folder} can be read; {'; '.join(problems)}")

    on_rank_zero(fabric, newest)
    position, generators = fabric.broadcast((read[0][2:] if read else (None, [])), src=0)
    if position is None:
        return TrainState()
    many = fabric.world_size > 1
    full = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=many)
    set_model_state_dict(objective, read[0][0] if read else {}, options=full)
    template: Any = get_optimizer_state_dict(
        objective, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    if read:
        template["state"] = _unflatten(read[0][1])
    set_optimizer_state_dict(objective, optimizer, template, options=full)
    if fabric.global_rank < len(generators):
        set_random_state(generators[fabric.global_rank])
    return TrainState(**position)


def _read(path: Path, objective: Objective) -> tuple[Any, ...]:
    verify(path)
    training = read_json(path / "training.json")
    weights = read_tensors(path / WEIGHTS)
    model = objective.model
    if model.config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    if not any(hasattr(p, "full_tensor") for p in model.parameters()):
        check_tensors(model, weights, str(path))
    moments = read_tensors(path / "optimizer.safetensors")
    weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    return weights, moments, training["position"], training["random"]


def _flatten(state: dict[str, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """{parameter: {"exp_avg": tensor}} -> {"exp_avg/parameter": tensor}."""
    return {
        f"{key}/{name}": torch.as_tensor(tensor).detach().contiguous()
        for name, entries in state.items()
        for key, tensor in entries.items()
    }


def _unflatten(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    state: dict[str, dict[str, torch.Tensor]] = {}
    for flat, tensor in tensors.items():
        key, _, name = flat.partition("/")
        state.setdefault(name, {})[key] = tensor
    return state


def _failed(folder: Path, step: int, error: Exception) -> str:
    before = checkpoints(folder)
    kept = f"{before[-1]} is intact" if before else "there is none before it"
    return (
        f"the checkpoint of step {step} could not be written: {error}; {kept}; "
        "continue with --resume after that"
    )


def _gather(fabric: Fabric, value: Any) -> list[Any]:
    """One value of each process, in the order of ranks."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def on_rank_zero(fabric: Fabric, act: Callable[[], None]) -> None:
    """Run on the first process; an error is raised there, and the others end without a word."""
    error: Exception | None = None
    if fabric.global_rank == 0:
        try:
            act()
        except Exception as caught:
            error = caught
    failed = fabric.broadcast(error is not None, src=0) if fabric.world_size > 1 else False
    if error is not None:
        raise error
    if failed:
        raise SystemExit(1)
