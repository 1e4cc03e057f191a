"""Two processes on gloo train a model in a user's own loop under each wrapper; run by
test_parallel.py.

    python tests/models/two_processes.py RANK STORE OUT

Rank 0 writes to OUT, as JSON, the largest difference of any parameter from what one process makes
of both batches, by wrapper; or the error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP1
from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel as DDP

from mixture_of_mamba import Batch, MambaBlock, Modality, ModelConfig, MultimodalModel

STEPS, RATE = 3, 0.5


def make() -> MultimodalModel:
    modalities = [Modality("text", "discrete", 13), Modality("image", "continuous", 5)]
    return MultimodalModel(
        ModelConfig(d_model=16, n_layers=2, d_state=4, vocabulary="shared", modalities=modalities)
    )


def batch(rank: int, step: int) -> Batch:
    """Rank 1 has no images: its experts take part with gradients of zero."""
    g = torch.Generator().manual_seed(10 * step + rank)
    ids = torch.randint(2, (2, 12), generator=g) * (1 - rank)
    return Batch(
        tokens=torch.randint(13, (2, 12), generator=g) * (1 - ids),
        modality_ids=ids,
        values={"image": torch.randn(int(ids.sum()), 5, generator=g)},
        seed=step,
    )


def shard_blocks(model: MultimodalModel, *, parts: bool = False, **options: Any) -> nn.Module:
    for block in model.backbone.blocks:
        mixer = getattr(block, "mixer", None)
        if parts and isinstance(block, MambaBlock):
            for part in (block.norm, mixer.conv1d, mixer.dt_proj, mixer.out_proj, mixer):
                fully_shard(part, **options)
        fully_shard(block, **options)
    if parts:
        fully_shard(model.head, **options)
        fully_shard(model.embedding, **options)
    fully_shard(model, **options)
    return model


def checkpointed(model: MultimodalModel) -> MultimodalModel:
    apply_activation_checkpointing(model, check_fn=lambda m: isinstance(m, MambaBlock))
    return model


def recomputing(model: MultimodalModel) -> MultimodalModel:
    model.backbone.checkpoint_activations = True
    return model


fsdp1 = partial(
    FSDP1, auto_wrap_policy=ModuleWrapPolicy({MambaBlock}), device_id=torch.device("cpu")
)
WIDE = torch.float64
WRAPPERS: dict[str, Callable[[MultimodalModel], nn.Module]] = {
    "DDP": DDP,
    "DDP, static graph": partial(DDP, static_graph=True),
    "DDP, unused parameters": partial(DDP, find_unused_parameters=True),
    "DDP, static graph, checkpointed": lambda m: DDP(checkpointed(m), static_graph=True),
    "FSDP2": shard_blocks,
    "FSDP2, every part": partial(shard_blocks, parts=True),
    "FSDP2, other dtype": partial(shard_blocks, mp_policy=MixedPrecisionPolicy(WIDE, WIDE)),
    "FSDP2, recomputed": lambda m: shard_blocks(recomputing(m)),
    "FSDP2, checkpointed": lambda m: shard_blocks(checkpointed(m)),
    "FSDP1": fsdp1,
    "FSDP1, own parameters": partial(fsdp1, use_orig_params=True),
    "FSDP1, other dtype": partial(fsdp1, mixed_precision=MixedPrecision(WIDE, WIDE)),
    "FSDP1, checkpointed": lambda m: fsdp1(checkpointed(m), use_orig_params=True),
}


def alone() -> dict[str, Tensor]:
    """Both batches in one process; the wrappers average over processes."""
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        (sum(model(batch(rank, step)).loss for rank in (0, 1)) / 2).backward()
        optimizer.step()
    return model.state_dict()


def together(wrap: Callable[[MultimodalModel], nn.Module], rank: int) -> dict[str, Tensor]:
    wrapped = wrap(make())
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        wrapped(batch(rank, step)).loss.backward()
        optimizer.step()
    found = get_model_state_dict(wrapped, options=StateDictOptions(full_state_dict=True))
    return {n.replace("_checkpoint_wrapped_module.", ""): p for n, p in found.items()}


def main(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    expected, results = alone(), {}
    for name, wrap in WRAPPERS.items():
        try:
            found = together(wrap, rank)
        except Exception:
            results[name] = traceback.format_exc()
            break  # the other process may be elsewhere now
        if rank == 0:
            assert found.keys() == expected.keys()
            results[name] = max(float((found[n] - p).abs().max()) for n, p in expected.items())
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    os._exit(0)  # a process that waits for the other one is not to hang


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
