"""Output classes of the models for transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .keywords import CACHE_NAME, CACHE_NAMES

__all__ = ["BackboneOutput", "CausalLMOutput"]

_OLD_NAMES = CACHE_NAMES[1:]


class _OldNames(ModelOutput):  # type: ignore[misc]
    """Before transformers 5.24, its helpers ask outputs for the cache's older names."""

    cache: Any

    def get(self, key: str, default: Any = None) -> Any:
        return super().get("cache" if key in _OLD_NAMES else key, default)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__("cache" if key in _OLD_NAMES else key)

    def __contains__(self, key: object) -> bool:
        # `generate` asks for all names, and hands on what it finds under each.
        return super().__contains__("cache" if key == CACHE_NAME else key)

    @property
    def cache_params(self) -> Any:
        return self.cache

    @property
    def past_key_values(self) -> Any:
        return self.cache


_Output: Any = ModelOutput if CACHE_NAME == "cache" else _OldNames


@dataclass
class BackboneOutput(_Output):  # type: ignore[misc]
    """What MixtureOfMambaModel gives.

    Attributes:
        last_hidden_state: (b, t, d) after the final norm; at padding that of the token before it.
        cache: state of every block after the tokens.
        hidden_states: (b, t, d) before each block and after the final norm.
        documents: (b, t) document of each token, where the batch has several.
    """

    last_hidden_state: Tensor | None = None
    cache: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    documents: Tensor | None = None


@dataclass
class CausalLMOutput(_Output):  # type: ignore[misc]
    """What MixtureOfMambaForCausalLM gives.

    Attributes:
        loss: scalar, where labels were given.
        logits: (b, t, joint vocabulary), float32 or float64; at padding those of the token before.
        cache: state of every block after the tokens.
        hidden_states: (b, t, d) before each block and after the final norm.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
