"""Saving and loading checkpoints; one is complete or absent, and the last one stays till then.

A checkpoint is a folder `step-00000500`: the model as `save_pretrained` writes it (so that any
checkpoint can be loaded as a model), `optimizer.safetensors`, and `training.json` with the position
in the run and the random number generators. It is written under a temporary name, flushed to
disk, and renamed. Its `SHA256SUMS` is verified at resume. Nothing in it is a pickle.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from ..models.saving import WEIGHTS, check_shapes, read_tensors, shapes_of, write_model
from .checkpoint_folders import checkpoints
from .distributed import gather, on_rank_zero
from .objective import Objective
from .random_state import random_state, set_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "CheckpointError",
    "TrainState",
    "load_checkpoint",
    "save_checkpoint",
]


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the message names the one that can be used."""


@dataclass(kw_only=True)
class TrainState:
    """How far a run is.

    Attributes:
        step: optimizer steps done; the data and the learning rate follow from it.
        seconds: training time so far, without evaluations and checkpoints.
        unlogged: sums of the steps that the log has no line for yet.
    """

    step: int = 0
    seconds: float = 0.0
    unlogged: list[list[float]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As training.json has it."""
        return {"step": self.step, "seconds": self.seconds, "rows": self.unlogged}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TrainState:
        return cls(step=plain["step"], seconds=plain["seconds"], unlogged=plain["rows"])


class _Saved(NamedTuple):
    """What a checkpoint holds."""

    weights: dict[str, Any]
    moments: dict[str, torch.Tensor]
    state: dict[str, Any]
    generators: list[dict[str, Any]]


def save_checkpoint(
    fabric: Fabric,
    folder: Path,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
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
    generators = gather(fabric, random_state())

    def write() -> None:
        final = folder / "checkpoints" / f"step-{state.step:08d}"
        try:
            with filling(final, anew=True) as part:
                tensors = {name.removeprefix("model."): value for name, value in weights.items()}
                write_model(objective.model.config, tensors, part)
                save_file(_flatten(moments["state"]), part / "optimizer.safetensors")
                training = {"position": state.to_dict(), "random": generators}
                (part / "training.json").write_text(json.dumps(training))
        except WriteError as error:
            raise CheckpointError(_failed(folder, state.step, error)) from error
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)

    on_rank_zero(fabric, write)


def load_checkpoint(
    fabric: Fabric, folder: Path, objective: Objective, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restore the newest checkpoint that can be read; step 0 where a run has none.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
        ValueError: the checkpoint's tensors do not fit the model.
    """
    saved: _Saved | None = None

    def newest() -> None:
        nonlocal saved
        problems = []
        for path in reversed(checkpoints(folder)):
            try:
                saved = _read(path, objective)
                return
            except (OSError, ValueError, KeyError) as error:
                problems.append(f"{path.name}: {error}")
                print(f"skipping the damaged checkpoint {path}: {error}", file=sys.stderr)
        if problems:
            raise CheckpointError(f"no checkpoint of {folder} can be read; {'; '.join(problems)}")

    on_rank_zero(fabric, newest)
    # Tensors are read on the first process and broadcast where they are set.
    state, generators = fabric.broadcast((saved.state, saved.generators) if saved else (None, []))
    if state is None:
        return TrainState()
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    shared = replace(whole, broadcast_from_rank0=fabric.world_size > 1)
    set_model_state_dict(objective, saved.weights if saved else {}, options=shared)
    template: Any = get_optimizer_state_dict(objective, optimizer, options=whole)
    if saved:
        template["state"] = _unflatten(saved.moments)
    set_optimizer_state_dict(objective, optimizer, template, options=shared)
    if fabric.global_rank < len(generators):
        set_random_state(generators[fabric.global_rank])
    return TrainState.from_dict(state)


def _read(path: Path, objective: Objective) -> _Saved:
    verify(path)
    training = read_json(path / "training.json")
    weights = read_tensors(path / WEIGHTS)
    model = objective.model
    if model.config.tie_embeddings:
        weights["head.weight"] = weights["embedding.weight"]
    if not any(hasattr(p, "full_tensor") for p in model.parameters()):
        check_shapes(shapes_of(model.state_dict()), weights, str(path))
    moments = read_tensors(path / "optimizer.safetensors")
    weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    return _Saved(weights, moments, training["position"], training["random"])


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
