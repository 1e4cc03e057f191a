"""Block states inside transformers' caches, and documents inside its attention masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...layers import MambaState
from ...ops import Routing

__all__ = ["make_routing", "read_state", "write_state"]


def read_state(cache: Any, layer: int) -> MambaState | None:
    """The state of one block; None before the first token."""
    if cache is None:
        return None
    conv, ssm = cache.get_conv_state(layer), cache.get_recurrent_state(layer)
    return None if conv is None else MambaState(conv, ssm)


def write_state(cache: Any, layer: int, state: MambaState) -> None:
    """Keep the state of one block: conv (b, k-1, d) and ssm (b, d, n).

    Stored without its history, and never in place: tensors that a graph still holds stay valid.
    """
    slot = cache.layers[layer]
    slot.conv_states[0], slot.recurrent_states[0] = state.conv.detach(), state.ssm.detach()
    slot.is_conv_states_initialized[0] = slot.is_recurrent_states_initialized[0] = True
    slot.has_previous_state[0] = True
    slot.device, slot.dtype = state.conv.device, state.conv.dtype


def make_routing(
    modality_ids: Tensor,
    n_modalities: int,
    *,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    continues: bool,
) -> tuple[Routing, Tensor | None]:
    """The routing of a call, and the document of each token.

    Padding is a document of its own: the state starts anew where the mask turns from 0 to 1, so
    that left padding leaves no trace.

    Args:
        modality_ids: (b, t).
        attention_mask: (b, s) of 0 and 1, s >= t; its last t columns are those of the tokens.
        document_ids: (b, t) of packed documents.
        continues: whether there is a state; then the column before the tokens says what it is of.
    """
    batch, length = modality_ids.shape
    documents, previous = document_ids, None
    if attention_mask is not None:
        if attention_mask.ndim != 2 or attention_mask.shape[0] != batch:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; "
                f"({batch}, at least {length}) is needed"
            )
        if attention_mask.shape[1] < length:
            raise ValueError(
                f"attention_mask covers {attention_mask.shape[1]} tokens, but {length} were given"
            )
        real = (attention_mask != 0).to(torch.int64)
        mask = real[:, real.shape[1] - length :]
        documents = mask if document_ids is None else 2 * document_ids + mask
        if continues and document_ids is None and real.shape[1] > length:
            previous = real[:, -length - 1]
    routing = Routing.build(modality_ids, n_modalities, documents, previous_document=previous)
    return routing, documents
