"""A stack of blocks over rows in modality order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..layers import MambaBlock, MambaState
from ..layers.activation_checkpointing import checkpoint_contexts
from ..layers.transformer import TransformerBlock
from ..ops import Routing
from .config import ModelConfig

__all__ = ["Backbone"]


def _make_block(config: ModelConfig, index: int) -> nn.Module:
    """The block at this depth."""
    if config.mixer == "attention":
        return TransformerBlock(
            config.d_model,
            n_modalities=len(config.modalities),
            split=bool(config.split),
            head_dim=config.head_dim,
            attention=index % 2 == 0,
            eps=config.norm_eps,
        )
    return MambaBlock(config.block)


class Backbone(nn.Module):
    """blocks -> final norm. Everything inside stays in modality order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(_make_block(config, i) for i in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.checkpoint_activations = False

    def init_weights(self, seed: int | None) -> None:
        """Each block's own initial values; out_proj divided by sqrt(number of blocks)."""
        for i, block in enumerate(self.blocks):
            block.init_weights(  # type: ignore[operator]
                seed=seed, name=f"blocks.{i}", residual_branches=len(self.blocks)
            )
        nn.init.ones_(self.norm.weight)

    def forward(
        self, x: Tensor, routing: Routing, state: Sequence[MambaState] | None = None
    ) -> tuple[Tensor, tuple[MambaState, ...]]:
        """(r, d_model) rows -> normed rows, and the state of every block after them."""
        after = []
        for i, block in enumerate(self.blocks):
            before = None if state is None else state[i]
            given: dict[str, Any] = {"routing": routing, "state": before, "return_state": True}
            if self.checkpoint_activations and self.training:
                given |= {"use_reentrant": False, "context_fn": checkpoint_contexts}
                x, s = checkpoint(block, x, **given)
            else:
                x, s = block(x, **given)
            after.append(s)
        return self.norm(x), tuple(after)
