"""The joint vocabulary: tokens -> rows, and rows -> logits or cross entropy.

The ids of all discrete modalities follow each other in one table; `ModelConfig.vocabulary_ranges`
says where each modality's own begin and end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.init import parameter_generator
from ..ops.cross_entropy import linear_cross_entropy, why_not
from .config import ModelConfig

__all__ = ["IGNORED", "DiscreteHead", "TokenEmbedding"]

#: Target of a row without one: its loss is 0.
IGNORED = -100

#: Up to so many logits (64 MiB) they are kept for the backward, which saves a matrix product. (The
#: CPU's kernel does so by itself.)
KEEP_LOGITS = 1 << 24


@torch.no_grad()
def init_vocabulary(weight: Tensor, config: ModelConfig, seed: int | None, name: str) -> None:
    """N(0, 0.02) per modality, each from its own generator, so that a further modality does not
    change the values of the others."""
    for modality, (low, high) in zip(config.modalities, config.vocabulary_ranges, strict=True):
        if modality.discrete:
            generator = parameter_generator(seed, f"{name}.{modality.name}", 0, weight)
            weight[low:high].normal_(0.0, 0.02, generator=generator)


class TokenEmbedding(nn.Module):
    """Rows of the joint table."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))

    def init_weights(self, seed: int | None) -> None:
        """Draw the initial values."""
        init_vocabulary(self.weight, self.config, seed, "embedding")

    def forward(self, joint_ids: Tensor) -> Tensor:
        """(r,) ids in the joint vocabulary -> (r, d_model)."""
        return F.embedding(joint_ids, self.weight)


class DiscreteHead(nn.Module):
    """logits = weight @ h over all discrete vocabularies.

    With `vocabulary="separate"` each target's softmax sees only the vocabulary of its own modality.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.vocabulary_size, config.d_model))

    def init_weights(self, seed: int | None) -> None:
        """Draw the initial values."""
        init_vocabulary(self.weight, self.config, seed, "head")

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        modality: Tensor | None = None,
        ranges: Tensor | None = None,
    ) -> Tensor:
        """Logits; or, with targets, the cross entropy of each row, in nats.

        Args:
            hidden: (..., d_model); (r, d_model) with targets.
            targets: (r,) ids in the joint vocabulary, or IGNORED.
            modality: (r,) modality of the target.
            ranges: (m, 2) each modality's [low, high) in the joint vocabulary.

        Returns:
            (..., joint vocabulary), or (r,).
        """
        if targets is None:
            return F.linear(hidden, self.weight)
        assert modality is not None and ranges is not None
        if self.config.vocabulary == "separate":
            low, high = ranges[modality].unbind(1)
            return linear_cross_entropy(
                hidden, self.weight, targets, low=low.contiguous(), high=high.contiguous()
            )
        if hidden.shape[0] * self.weight.shape[0] > KEEP_LOGITS or why_not(hidden) is None:
            return linear_cross_entropy(hidden, self.weight, targets)
        logits = F.linear(hidden, self.weight)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(wide, targets, reduction="none")
