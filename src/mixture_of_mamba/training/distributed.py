"""Distributed training: the Fabric of a run, FSDP2 sharding, and what ranks exchange."""

from __future__ import annotations

import gc
import logging
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..batch import Batch
from ..extras import needs
from ..models import MultimodalModel
from .objective import Objective
from .train_config import TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "any_rank",
    "gather",
    "is_first_process",
    "make_fabric",
    "on_rank_zero",
    "shutdown",
    "sum_over_ranks",
    "to_device",
]


def make_fabric(config: TrainConfig) -> Fabric:
    """The Fabric that the config asks for, not launched yet.

    Raises:
        ImportError: lightning is not installed.
        ValueError: a device that this machine does not have.
    """
    with needs("training", "train"):
        from lightning.fabric import Fabric
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    device = config.resolved_device
    if device == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if config.devices > found:
            raise ValueError(
                f"train.devices asks for {config.devices} CUDA device(s), but this machine has "
                f"{found}; lower train.devices or use --train.device cpu"
            )
    return Fabric(
        accelerator=device,
        devices=config.devices,
        strategy=_strategy(config),
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )


def _strategy(config: TrainConfig) -> Any:
    if config.devices == 1:
        return "auto"
    if config.strategy != "fsdp":
        return "ddp"
    from lightning.fabric.strategies import ModelParallelStrategy

    return ModelParallelStrategy(_shard, config.devices, 1)


def _shard(objective: Objective, mesh: Any) -> Objective:
    """FSDP2: each block is a group of its own; embedding, final norm and heads are the root's."""
    from torch.distributed.fsdp import fully_shard

    ranks = mesh["data_parallel"]
    objective.to(ranks.device_type)
    for block in objective.model.backbone.blocks:
        fully_shard(block, mesh=ranks)
    fully_shard(objective, mesh=ranks)
    return objective


def shutdown(fabric: Fabric) -> None:
    """Destroy the process group, and with it the threads of its backend."""
    if fabric.world_size > 1 and torch.distributed.is_initialized():
        gc.collect()  # garbage must not keep the group alive until the interpreter exits
        torch.distributed.destroy_process_group()


def sum_over_ranks(fabric: Fabric, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if fabric.world_size == 1:
        return values
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, torch.Tensor)
    return total


def gather(fabric: Fabric, value: Any) -> list[Any]:
    """One value of each process, in the order of ranks."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def on_rank_zero(fabric: Fabric, act: Callable[[], None]) -> None:
    """Run on the first process; an error is raised there, and the others exit with status 1."""
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


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Whether a flag is set on any process; all of them learn it at the same step."""
    if fabric.world_size == 1:
        return flag
    flags = torch.tensor(float(flag), device=fabric.device)
    return bool(sum_over_ranks(fabric, flags).item())


def is_first_process() -> bool:
    """Whether this process has local rank 0; Fabric sets the ranks of processes that it starts."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def to_device(fabric: Fabric, batch: Batch, model: MultimodalModel) -> Batch:
    """The batch where the model is, checked on the way: a model elsewhere than on the CPU does not
    check, because it would have to wait for the answer."""
    if fabric.device.type != "cpu":
        model.config.check(batch)
    return batch.to(fabric.device, non_blocking=True)
