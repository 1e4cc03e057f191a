"""One network for text, image, speech: embeddings -> blocks -> heads, all in modality order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..layers import MambaState
from ..ops import Routing
from .backbone import Backbone, ModelState
from .config import ModelConfig
from .embedding import TokenEmbedding
from .heads import DiscreteHead
from .saving import load_model, save_model
from .targets import next_tokens

__all__ = ["ModelOutput", "MultimodalModel"]


@dataclass
class ModelOutput:
    """What one forward pass gives.

    Attributes:
        loss: scalar; see MultimodalModel.forward.
        losses: mean loss by modality of the target (nats per token; mean squared error for
            continuous ones); NaN where the batch has no target of it.
        counts: number of targets by modality.
        logits: (b, t, joint vocabulary) where asked for.
        state: of every block after the batch, where asked for.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    counts: dict[str, Tensor]
    logits: Tensor | None = None
    state: ModelState | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class MultimodalModel(nn.Module):
    """A sequence model over interleaved modalities; dense or mixture by `config.split`.

    Args:
        config: the model as data.
        seed: of the initial values; variants with the same seed share what they have in common.
    """

    _low: Tensor
    _discrete: Tensor

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.backbone = Backbone(config)
        self.head = DiscreteHead(config)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_buffers()
        self.init_weights(seed)

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Tables derived from the config: start of each vocabulary, and which are discrete."""
        ranges = torch.tensor([r[0] for r in self.config.vocabulary_ranges], device=device)
        discrete = torch.tensor([m.discrete for m in self.config.modalities], device=device)
        self.register_buffer("_low", ranges, persistent=False)
        self.register_buffer("_discrete", discrete, persistent=False)

    def init_weights(self, seed: int | None) -> None:
        """Draw all initial values from (seed, name)."""
        self.embedding.init_weights(seed)
        self.backbone.init_weights(seed)
        if not self.config.tie_embeddings:
            self.head.init_weights(seed)

    def forward(
        self,
        batch: Batch,
        *,
        state: Sequence[MambaState] | None = None,
        return_state: bool = False,
        return_logits: bool = False,
    ) -> ModelOutput:
        """Losses of a batch.

        The total is the mean cross entropy over all discrete targets, each weighted by its
        modality's loss_weight; with weights of one it is the mean over tokens.

        Args:
            batch: windows of interleaved tokens.
            state: of every block, from the tokens before these.
            return_state, return_logits: also return these.

        Raises:
            ValueError: a modality or token id that this model does not have.
        """
        c = self.config
        if batch.modality_ids.device.type == "cpu":  # elsewhere a check would synchronise
            batch.check(c.names, [m.size for m in c.modalities], [m.discrete for m in c.modalities])
        routing = Routing.build(
            batch.modality_ids, len(c.modalities), batch.document_ids, check=False
        )
        rows = self.embed(batch, routing)
        hidden, after = self.backbone(rows, routing, state)
        output = self.losses(hidden, batch, routing)
        if return_logits:
            output.logits = routing.to_time(self.head(hidden))
        if return_state:
            output.state = after
        return output

    def embed(self, batch: Batch, routing: Routing) -> Tensor:
        """(r, d_model) rows of a batch in the routing's order."""
        joint = batch.tokens + self._low[batch.modality_ids]
        return self.embedding(routing.to_rows(joint))

    def losses(self, hidden: Tensor, batch: Batch, routing: Routing) -> ModelOutput:
        """Losses of the rows' predictions, by modality of the target."""
        targets = next_tokens(batch, self._low, self._discrete)
        ids, modality, counts = (routing.to_rows(x) for x in targets)
        each = self.head.losses(hidden, ids, modality)
        each = torch.where(counts, each, 0.0)
        n = len(self.config.modalities)
        totals = each.new_zeros(n).index_add(0, modality, each)
        numbers = each.new_zeros(n).index_add(0, modality, counts.to(each.dtype))
        weights = each.new_tensor([m.loss_weight for m in self.config.modalities])
        loss = (totals * weights).sum() / numbers.sum().clamp(min=1.0)
        means = totals / numbers
        names = self.config.names
        return ModelOutput(
            loss=loss,
            losses={name: means[i].detach() for i, name in enumerate(names)},
            counts={name: numbers[i].detach() for i, name in enumerate(names)},
        )

    def parameter_count(self, *, active: bool = False) -> int:
        """Number of parameters; with `active`, those that one token meets."""
        total = sum(p.numel() for p in self.parameters())
        if not active:
            return total
        idle = 0
        n = len(self.config.modalities)
        for name, p in self.backbone.named_parameters():
            if p.ndim >= 2 and p.shape[0] == n > 1 and "proj" in name:
                idle += p.numel() * (n - 1) // n
        return total - idle

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> MultimodalModel:
        """Read what save_pretrained wrote.

        Raises:
            FileNotFoundError: no model in the folder.
            ValueError: a damaged file, or tensors that do not fit the config (all named).
        """
        return load_model(cls, Path(folder), device)
