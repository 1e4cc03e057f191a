"""What the models for transformers return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

__all__ = ["BackboneOutput", "CausalLMOutput"]


@dataclass
class BackboneOutput(ModelOutput):  # type: ignore[misc]
    """What MixtureOfMambaModel gives.

    Attributes:
        last_hidden_state: (b, t, d) after the final norm.
        cache_params: state of every block after the tokens.
        hidden_states: (b, t, d) before each block and after the final norm.
        documents: (b, t) document of each token, where the batch has several.
    """

    last_hidden_state: Tensor | None = None
    cache_params: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    documents: Tensor | None = None


@dataclass
class CausalLMOutput(ModelOutput):  # type: ignore[misc]
    """What MixtureOfMambaForCausalLM gives.

    Attributes:
        loss: scalar, where labels were given.
        logits: (b, t, joint vocabulary) float32.
        cache_params: state of every block after the tokens.
        hidden_states: (b, t, d) before each block and after the final norm.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache_params: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
