"""A model continued from a state: the part of a forward pass that training and decoding share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import Batch
from ..layers import MambaState
from ..ops import Routing
from .cache import Cache, check_state

if TYPE_CHECKING:
    from .model import MultimodalModel

__all__ = ["advance", "checked_here", "run_blocks"]


def run_blocks(
    model: MultimodalModel,
    batch: Batch,
    state: Cache | Sequence[MambaState] | None = None,
    *,
    fresh: Tensor | None = None,
    keep: bool = True,
    embed: Callable[[Batch, Routing], Tensor] | None = None,
) -> tuple[Tensor, Routing, Cache | None]:
    """Embedding and all blocks.

    Args:
        batch: (b, t) tokens.
        state: of the tokens before these.
        fresh: (b, t) bool, tokens inside documents that begin with an empty state.
        keep: also return the cache after these.
        embed: instead of model.embed.

    Returns:
        (r, d_model) normed rows in the routing's order, the routing, and the cache.
    """
    config, before = model.config, None
    if state is not None:
        check_state(state, config, batch.shape[0], activation_dtype(model))
        before = state.document if isinstance(state, Cache) else None
    routing = Routing.build(
        batch.modality_ids,
        len(config.modalities),
        batch.document_ids,
        previous_document=before,
        host_offsets=batch.row_ends,
        check=None
        if torch.compiler.is_compiling()
        else False,  # else the batch was held against it
    )
    if fresh is not None:
        resets = fresh if routing.resets is None else routing.resets | fresh
        routing = replace(routing, resets=resets)
    rows = (embed or model.embed)(batch, routing)
    hidden, blocks = model.backbone(rows, routing, state)
    if not keep or config.mixer != "mamba":
        return hidden, routing, None
    if not isinstance(state, Cache):
        zero = torch.zeros(batch.shape[0], dtype=torch.int64, device=batch.tokens.device)
        state = Cache(config, tuple(state or blocks), zero)
    return hidden, routing, state.after(blocks, batch.document_ids, batch.shape[1])


@torch.no_grad()
def advance(
    model: MultimodalModel,
    batch: Batch,
    state: Cache | Sequence[MambaState] | None = None,
    *,
    all_positions: bool = False,
) -> tuple[Tensor, Cache]:
    """See MultimodalModel.advance."""
    config = model.config
    if config.mixer != "mamba":
        raise ValueError(
            "the transformer baselines carry no state to continue from; "
            "run them on whole sequences with model(batch, return_logits=True)"
        )
    if not batch.shape[1] and not all_positions:
        raise ValueError("there are no tokens to advance by; give at least one per sequence")
    if checked_here(batch):
        config.check(batch)
    hidden, routing, after = run_blocks(model, batch, state)
    assert after is not None
    if all_positions:
        return model.head(routing.to_time(hidden)), after
    last = (
        hidden.view(*batch.shape, -1)[:, -1]
        if routing.rows is None
        else (hidden[routing.rows[:, -1].long()])
    )
    return model.head(last), after


def checked_here(batch: Batch) -> bool:
    """Whether a model holds the batch against its config: elsewhere than on the CPU that would
    synchronise, and it cannot be part of a graph."""
    return batch.modality_ids.device.type == "cpu" and not torch.compiler.is_compiling()


def activation_dtype(model: MultimodalModel) -> torch.dtype | None:
    """What convolution states are stored in: the weights' dtype, or autocast's.

    None where autocast leaves more than one dtype around.
    """
    kind = model.device.type
    autocast = kind != "meta" and torch.is_autocast_enabled(kind)
    return None if autocast else model.embedding.weight.dtype
