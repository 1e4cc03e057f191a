"""One network for text, image, speech: embeddings -> blocks -> heads, all in modality order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import register_dataclass

from ..batch import Batch
from ..layers import MambaState
from ..ops import Routing
from .backbone import Backbone
from .cache import Cache
from .config import ModelConfig
from .diffusion import Diffusion, Noised
from .embedding import TokenEmbedding
from .heads import IGNORED, DiscreteHead
from .inference import advance, checked_here, run_blocks
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
        totals: sum of the losses by modality, with gradients: whoever divides a batch into parts
            needs sums, because parts have different numbers of targets.
        logits: (b, t, joint vocabulary) where asked for.
        state: of every block after the batch, where asked for.
        extra: "noise_levels": by name of a continuous modality, (10, 2) sum of its squared errors
            and number of positions by noise level, from clean to noise.
    """

    loss: Tensor
    losses: dict[str, Tensor]
    counts: dict[str, Tensor]
    totals: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    state: Cache | None = None
    extra: dict[str, Any] = field(default_factory=dict)


# A tree of tensors for wrappers: DDP with a static graph averages what it finds here.
register_dataclass(ModelOutput, serialized_type_name="mixture_of_mamba.ModelOutput")


class MultimodalModel(nn.Module):
    """A sequence model over interleaved modalities; dense or mixture by `config.split`.

    Args:
        config: the model as data.
        seed: of the initial values; variants with the same seed share what they have in common.
    """

    _ranges: Tensor
    _low: Tensor
    _weights: Tensor
    _discrete: Tensor

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.backbone = Backbone(config)
        self.head = DiscreteHead(config)
        continuous = any(not m.discrete for m in config.modalities)
        self.diffusion = Diffusion(config) if continuous else None
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_buffers()
        self.init_weights(seed)

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Tables derived from the config, per modality: its range in the joint vocabulary, its
        loss weight, and whether it is discrete. They live on the device, so that a step copies
        nothing to it."""
        modalities = self.config.modalities
        ranges = torch.tensor(self.config.vocabulary_ranges, device=device)
        weights = torch.tensor(
            [m.loss_weight for m in modalities], device=device, dtype=torch.float32
        )
        discrete = torch.tensor([m.discrete for m in modalities], device=device)
        self.register_buffer("_ranges", ranges, persistent=False)
        self.register_buffer("_low", ranges[:, 0].contiguous(), persistent=False)
        self.register_buffer("_weights", weights, persistent=False)
        self.register_buffer("_discrete", discrete, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where batches belong: the device of the model's buffers, which stay there where its
        weights are kept elsewhere between calls (offloading)."""
        return self._low.device

    def init_weights(self, seed: int | None) -> None:
        """Draw all initial values from (seed, name)."""
        self.embedding.init_weights(seed)
        self.backbone.init_weights(seed)
        if not self.config.tie_embeddings:
            self.head.init_weights(seed)
        if self.diffusion is not None:
            self.diffusion.init_weights(seed)

    def forward(
        self,
        batch: Batch,
        *,
        state: Cache | Sequence[MambaState] | None = None,
        return_state: bool = False,
        return_logits: bool = False,
        clean: bool = False,
    ) -> ModelOutput:
        """Losses of a batch.

        The total is the mean cross entropy over all discrete targets, each weighted by its
        modality's loss_weight (with weights of one it is the mean over tokens), and for each
        continuous modality its loss_weight times the mean squared error over its positions.

        Args:
            batch: windows of interleaved tokens.
            state: of every block, from the tokens before these.
            return_state, return_logits: also return these.
            clean: continuous values are read as they are, as context, and have no loss; otherwise
                they are noised, and captions dropped in training, from `batch.seed`.

        Raises:
            ValueError: a modality or token id that this model does not have.
        """
        if checked_here(batch):
            self.config.check(batch)
        noised: dict[str, Noised] = {}
        fresh = None
        if self.diffusion is not None and self.training and not clean:
            fresh = self.diffusion.drop_captions(batch, self._discrete)

        def embed(batch: Batch, routing: Routing) -> Tensor:
            if self.diffusion is not None and not clean:
                noised.update(self.diffusion.noise(batch, routing, self._discrete))
            return self.embed(batch, routing, noised)

        hidden, routing, after = run_blocks(
            self, batch, state, fresh=fresh, keep=return_state, embed=embed
        )
        output = self.losses(hidden, batch, routing, noised, fresh)
        if return_logits:
            output.logits = routing.to_time(self.head(hidden))
        if return_state:
            output.state = after
        return output

    def embed(
        self, batch: Batch, routing: Routing, noised: Mapping[str, Noised] | None = None
    ) -> Tensor:
        """(r, d_model) rows of a batch in the routing's order; continuous values are taken from
        `noised`, or clean where there is none."""
        joint = batch.tokens + self._low[batch.modality_ids]
        rows = self.embedding(routing.to_rows(joint))
        if self.diffusion is None:
            return rows
        if not noised:
            noised = self.diffusion.noise(batch, routing, self._discrete, clean=True)
        return self.diffusion.embed(rows, noised)

    def losses(
        self,
        hidden: Tensor,
        batch: Batch,
        routing: Routing,
        noised: Mapping[str, Noised] | None = None,
        fresh: Tensor | None = None,
    ) -> ModelOutput:
        """Losses of the rows' predictions, by modality of the target; `fresh` as in next_tokens."""
        targets = next_tokens(batch, self._low, self._discrete, fresh)
        ids, modality, counts = (routing.to_rows(x) for x in targets)
        # A row that does not count may have no vocabulary of its own: what follows is continuous.
        ids = ids.masked_fill(~counts, IGNORED)
        each = self.head(hidden, ids, modality, self._ranges)
        each = torch.where(counts, each, 0.0)
        n = len(self.config.modalities)
        totals = each.new_zeros(n).index_add(0, modality, each)
        numbers = each.new_zeros(n).index_add(0, modality, counts.to(each.dtype))
        loss = (totals * self._weights).sum() / numbers.sum().clamp(min=1.0)
        means = totals / numbers
        names = self.config.names
        output = ModelOutput(
            loss=loss,
            losses={name: means[i].detach() for i, name in enumerate(names)},
            counts={name: numbers[i].detach() for i, name in enumerate(names)},
            totals={name: totals[i] for i, name in enumerate(names)},
        )
        if self.diffusion is not None and noised:
            self.diffusion.add_losses(output, hidden, noised)
        return output

    def target_counts(self, batch: Batch) -> Tensor:
        """(m,) float32 numbers of targets by modality, as `forward` would count them; cheap."""
        fresh = None
        if self.diffusion is not None and self.training:
            fresh = self.diffusion.drop_captions(batch, self._discrete)
        targets = next_tokens(batch, self._low, self._discrete, fresh)
        mask = batch.loss_mask if batch.loss_mask is not None else batch.modality_ids >= 0
        numbers = torch.zeros(len(self._discrete), device=batch.tokens.device, dtype=torch.float32)
        numbers.index_add_(0, targets.modality.flatten(), targets.counts.flatten().float())
        continuous = mask & ~self._discrete[batch.modality_ids]
        return numbers.index_add_(0, batch.modality_ids.flatten(), continuous.flatten().float())

    def advance(
        self,
        tokens: Tensor,
        modality_ids: Tensor,
        state: Cache | Sequence[MambaState] | None = None,
        *,
        document_ids: Tensor | None = None,
        values: Mapping[str, Tensor] | None = None,
        all_positions: bool = False,
    ) -> tuple[Tensor, Cache]:
        """Continue from a state: prefill, a chunk, or one token; without gradients and losses.

        Args:
            tokens, modality_ids, document_ids: (b, t), t >= 1, as in Batch; on the model's device,
                or on the host, from where they are copied: then the host knows how many rows each
                modality has, and need not wait for the device.
            state: of the tokens before these; it stays as it was.
            values: by name of a continuous modality, (p, dim) vectors, read as they are.
            all_positions: logits of every position instead of the last.

        Returns:
            logits (b, joint vocabulary), or (b, t, joint vocabulary), and the state after.

        Raises:
            ValueError: a state of another model or batch, no tokens, a model that has no state, or
                ids and values that the model does not have.
            TypeError: a state of another dtype.
        """
        batch = Batch(
            tokens=tokens,
            modality_ids=modality_ids,
            document_ids=document_ids,
            values=values or {},
        )
        if tokens.device != self.device:
            batch = batch.to(self.device)
        return advance(self, batch, state, all_positions=all_positions)

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
        """Write config.json and model.safetensors, with their digests in SHA256SUMS; complete, or
        the folder stays as it was.

        Raises:
            WriteError: the folder could not be written.
        """
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
