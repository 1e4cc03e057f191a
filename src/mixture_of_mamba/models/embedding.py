"""Tokens -> rows: one table over all discrete vocabularies."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.init import parameter_generator
from .config import ModelConfig

__all__ = ["TokenEmbedding", "init_vocabulary"]


@torch.no_grad()
def init_vocabulary(weight: Tensor, config: ModelConfig, seed: int | None, name: str) -> None:
    """N(0, 0.02) per modality, each from its own generator, so that a further modality does not
    change the values of the others."""
    for modality, (low, high) in zip(config.modalities, config.vocabulary_ranges, strict=True):
        if modality.discrete:
            generator = parameter_generator(seed, f"{name}.{modality.name}", 0, weight)
            weight[low:high].normal_(0.0, 0.02, generator=generator)


class TokenEmbedding(nn.Module):
    """Rows of the joint table; the ids of each modality start at its own `low`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))

    def init_weights(self, seed: int | None) -> None:
        init_vocabulary(self.weight, self.config, seed, "embedding")

    def forward(self, joint_ids: Tensor) -> Tensor:
        """(r,) ids in the joint vocabulary -> (r, d_model)."""
        return nn.functional.embedding(joint_ids, self.weight)
