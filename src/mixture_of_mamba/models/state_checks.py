"""Whether a state fits the model and the batch that are to continue from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..layers import MambaState
from .config import ModelConfig

__all__ = ["check_blocks", "check_origin"]

#: Fields of the config that give a state its shape or its meaning.
_MEANING = ("mixer", "d_model", "n_layers", "expand", "d_state", "d_conv", "split", "modalities")


def check_origin(origin: ModelConfig, config: ModelConfig) -> None:
    """Compare the config of the model that made a state to that of the present one.

    Raises:
        ValueError: they differ in a field that matters to a state.
    """
    if origin is config:
        return
    wrong = [n for n in _MEANING if _plain(origin, n) != _plain(config, n)]
    if wrong:
        raise ValueError(
            "the state is of another model: "
            + "; ".join(f"{n} {_plain(origin, n)} there, {_plain(config, n)} here" for n in wrong)
            + "; prefill the prompt with this model"
        )


def check_blocks(
    blocks: Sequence[MambaState], config: ModelConfig, batch: int, dtype: torch.dtype | None
) -> None:
    """Compare the states of all blocks to a model and a batch.

    Args:
        blocks: one state per block.
        config: of the model.
        batch: number of sequences.
        dtype: of the model's activations; None: any.

    Raises:
        ValueError: another number of blocks, or shapes of another model or batch.
        TypeError: another dtype.
    """
    if len(blocks) != config.n_layers:
        raise ValueError(f"the state has {len(blocks)} blocks; this model has {config.n_layers}")
    if config.mixer != "mamba":
        return
    c = config.block
    for i, block in enumerate(blocks):
        shapes = tuple(map(tuple, (block.conv.shape, block.ssm.shape)))
        wanted = ((batch, c.d_conv - 1, c.d_inner), (batch, c.d_inner, c.d_state))
        if shapes != wanted:
            what = "batch" if [s[1:] for s in shapes] == [s[1:] for s in wanted] else "model"
            raise ValueError(
                f"the state is of another {what}: block {i} has conv {shapes[0]} and ssm "
                f"{shapes[1]}, but {wanted[0]} and {wanted[1]} are needed"
                + ("; see ModelState.select and ModelState.expand" if what == "batch" else "")
            )
        if dtype is not None and block.conv.dtype != dtype:
            raise TypeError(
                f"the state is {block.conv.dtype}, but the model computes in {dtype}; "
                "prefill again in one dtype for both"
            )


def _plain(config: ModelConfig, name: str) -> Any:
    value = getattr(config, name)
    if name == "modalities":
        return [f"{m.name}:{m.kind}:{m.size}" for m in value]
    return sorted(value) if name == "split" else value
