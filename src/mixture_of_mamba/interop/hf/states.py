"""Block states, and facts of the tokens so far, inside transformers' caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from ...layers import MambaState
from ...models import ModelConfig, ModelState
from ...models.state import check_state

__all__ = ["StateLayer", "kept_by", "read_states", "write_states"]


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]
    """The state of one block: conv (b, k-1, d) and ssm (b, d, n).

    Attributes:
        config: of the model that made it.
        kept: (b, …) by name, in the first block only: "hidden" (b, d) after the last token,
            "document" (b,) of that token where ids were given, "seen" (b,) number of token ids
            so far and "digest" (b,) of them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.kept: dict[str, Tensor] = {}

    def reorder_cache(self, beam_idx: Any) -> None:
        """Rows `beam_idx` as the new batch."""
        super().reorder_cache(beam_idx)
        self.kept = {k: v.index_select(0, beam_idx.to(v.device)) for k, v in self.kept.items()}

    def reset(self) -> None:
        """The state before the first token."""
        self.__init__(self.config)  # type: ignore[misc]


def kept_by(cache: Any) -> dict[str, Tensor]:
    """What a cache keeps besides the states of the blocks; nothing before the first token."""
    layers = getattr(cache, "layers", None)
    return dict(layers[0].kept) if layers and isinstance(layers[0], StateLayer) else {}


def read_states(cache: Any, config: ModelConfig, batch: int) -> list[MambaState] | None:
    """The state of every block; None before the first token.

    Raises:
        TypeError: no cache of transformers, or one without layers for states.
        ValueError: the state is of another model or another batch.
    """
    if cache is None:
        return None
    layers = getattr(cache, "layers", None)
    if layers is None or not all(isinstance(x, LinearAttentionLayer) for x in layers):
        raise TypeError(
            f"the cache is {type(cache).__name__}"
            + (f" of {type(layers[0]).__name__}" if layers else "")
            + "; what an earlier call returned is needed, or DynamicCache(config=model.config)"
        )
    if not layers or not layers[0].has_previous_state[0]:
        return None
    states = [MambaState(x.conv_states[0], x.recurrent_states[0]) for x in layers]
    if not torch.compiler.is_compiling():
        first = layers[0]
        if not isinstance(first, StateLayer):
            raise ValueError("the state is of another model; prefill the prompt with this model")
        nowhere = states[0].conv.new_zeros(0)
        check_state(ModelState(first.config, tuple(states), nowhere), config, batch, None)
    return states


def write_states(
    cache: Any, states: Sequence[MambaState], config: ModelConfig, kept: dict[str, Tensor]
) -> None:
    """Keep the state of every block, and `kept` with the first.

    Stored without its history, and never in place: tensors that a graph still holds stay valid.

    Raises:
        NotImplementedError: the cache is to go back to earlier tokens, as an assistant's must.
    """
    for i, state in enumerate(states):
        slot = cache.layers[i]
        if slot.record_past:
            raise NotImplementedError(
                "the cache is to be cropped to earlier tokens, which a state cannot; a Mamba "
                "cannot be an assistant model"
            )
        if not isinstance(slot, StateLayer):
            cache.layers[i] = slot = StateLayer(config)
        slot.conv_states[0], slot.recurrent_states[0] = state.conv.detach(), state.ssm.detach()
        slot.is_conv_states_initialized[0] = slot.is_recurrent_states_initialized[0] = True
        slot.has_previous_state[0] = True
        slot.device, slot.dtype = state.conv.device, state.conv.dtype  # type: ignore[assignment]
    cache.layers[0].kept = {k: v.detach() for k, v in kept.items()}
