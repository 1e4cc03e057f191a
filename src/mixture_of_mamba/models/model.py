"""One network for text, image, speech: embeddings -> blocks -> heads, all in modality order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..batch import Batch
from ..layers import MambaState
from ..ops import Routing
from ..ops.routing import document_starts
from .backbone import Backbone
from .config import ModelConfig
from .diffusion import ContinuousInputs, Diffusion
from .flops import parameter_counts
from .loss import ModelOutput, count_targets, next_tokens, total_loss
from .saving import PretrainedModel
from .state import ModelState, check_state, state_after
from .vocabulary import IGNORED, DiscreteHead, TokenEmbedding

__all__ = ["MultimodalModel"]


class MultimodalModel(PretrainedModel):
    """A sequence model over interleaved modalities; dense or mixture by `config.split`.

    Args:
        config: the model as data.
        seed: of the initial values; variants with the same seed share what they have in common.
    """

    _ranges: Tensor  # of each modality in the joint vocabulary
    _vocab_offsets: Tensor  # where these begin
    _loss_weights: Tensor
    _discrete: Tensor  # which modalities are discrete

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.backbone = Backbone(config)
        self.head = DiscreteHead(config)
        self.diffusion = Diffusion(config)
        self.tie_weights()
        self.reset_buffers()
        self.init_weights(seed)

    def tie_weights(self) -> None:
        """Where the config says so, the head's weight is the embedding's."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.weight

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Tables by modality on the device, so that a step copies nothing to it."""
        modalities = self.config.modalities
        ranges = torch.tensor(self.config.vocabulary_ranges, device=device)
        weights = [m.loss_weight for m in modalities]
        tables = {
            "_ranges": ranges,
            "_vocab_offsets": ranges[:, 0].contiguous(),
            "_loss_weights": torch.tensor(weights, device=device, dtype=torch.float32),
            "_discrete": torch.tensor([m.discrete for m in modalities], device=device),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where batches belong; weights may be elsewhere between calls (offloading)."""
        return self._vocab_offsets.device

    @property
    def activation_dtype(self) -> torch.dtype | None:
        """Of convolution states; None in autocast, which leaves more than one dtype around."""
        kind = self.device.type
        autocast = kind != "meta" and torch.is_autocast_enabled(kind)
        return None if autocast else self.embedding.weight.dtype

    def init_weights(self, seed: int | None) -> None:
        """Draw all initial values from (seed, name)."""
        self.embedding.init_weights(seed)
        self.backbone.init_weights(seed)
        if not self.config.tie_embeddings:
            self.head.init_weights(seed)
        self.diffusion.init_weights(seed)

    def forward(
        self,
        batch: Batch,
        *,
        state: ModelState | Sequence[MambaState] | None = None,
        return_state: bool = False,
        return_logits: bool = False,
        clean: bool = False,
    ) -> ModelOutput:
        """Losses of a batch; `loss.total_loss` says how they become one.

        Args:
            batch: windows of interleaved tokens.
            state: of every block, from the tokens before these.
            return_state, return_logits: also return these.
            clean: continuous values are read as they are, as context, and have no loss; otherwise
                they are noised, and captions dropped in training, from `batch.seed`.

        Raises:
            ValueError: a modality or token id that this model does not have, or a state of another
                model or batch.
            TypeError: a state of another dtype.
        """
        routing = self.prepare(batch, state)
        context = routing
        # Drawn before the noise, which depends on the documents as the data has them.
        if self.training and not clean:
            starts = self.diffusion.drop_context(batch, routing.resets, self._discrete)
            context = replace(routing, resets=starts)
        inputs = self.diffusion.add_noise(batch, routing, self._discrete, clean=clean)
        rows = self.embed(batch, routing, inputs)
        hidden, blocks = self.backbone(rows, context, state)
        output = self.losses(hidden, batch, context, {} if clean else inputs)
        if return_logits:
            output.logits = routing.to_time(self.head(hidden))
        if return_state:
            output.state = state_after(self.config, state, blocks, batch)
        return output

    def prepare(
        self, batch: Batch, state: ModelState | Sequence[MambaState] | None = None
    ) -> Routing:
        """Check what the model is given, and sort the batch by modality.

        Elsewhere than on the CPU the ids are not read: that would make the host wait for the
        device. Nor are they in a graph, where the range of the modality ids is an assertion.
        """
        compiling = torch.compiler.is_compiling()
        if batch.modality_ids.device.type == "cpu" and not compiling:
            self.config.check(batch)
        if state is not None:
            check_state(state, self.config, batch.shape[0], self.activation_dtype)
        return Routing.build(
            batch.modality_ids,
            len(self.config.modalities),
            batch.document_ids,
            previous_document=state.document if isinstance(state, ModelState) else None,
            host_offsets=batch.row_ends,
            check=None if compiling else False,
        )

    def embed(
        self, batch: Batch, routing: Routing, inputs: Mapping[str, ContinuousInputs]
    ) -> Tensor:
        """(r, d_model) rows of a batch in the routing's order."""
        joint_ids = batch.tokens + self._vocab_offsets[batch.modality_ids]
        return self.diffusion.embed(self.embedding(routing.to_rows(joint_ids)), inputs)

    def losses(
        self,
        hidden: Tensor,
        batch: Batch,
        routing: Routing,
        inputs: Mapping[str, ContinuousInputs],
    ) -> ModelOutput:
        """Losses of the rows' predictions, by modality of the target; continuous ones only of what
        is among `inputs`."""
        targets = next_tokens(batch, routing.resets, self._vocab_offsets, self._discrete)
        counts = count_targets(batch, targets, self._discrete, continuous=bool(inputs))
        ids, modality, mask = (routing.to_rows(x) for x in targets)
        # A row that does not count may have no vocabulary of its own: what follows is continuous.
        ids = ids.masked_fill(~mask, IGNORED)
        each = self.head(hidden, ids, modality, self._ranges)
        each = torch.where(mask, each, 0.0)
        totals = each.new_zeros(len(self._discrete)).index_add(0, modality, each)
        noise_levels = {}
        for name, x in inputs.items():
            error, noise_levels[name] = self.diffusion.errors(hidden, name, x)
            total = error.sum().to(totals.dtype)
            totals = totals.select_scatter(total, 0, self.diffusion.modalities[name])
        loss = self.total_loss(totals, counts)
        return ModelOutput(self.config.names, loss, totals, counts, noise_levels=noise_levels)

    def total_loss(self, totals: Tensor, counts: Tensor) -> Tensor:
        """The loss of (m,) sums and numbers of targets; see `loss.total_loss`."""
        return total_loss(totals, counts, self._loss_weights, self._discrete)

    def target_counts(self, batch: Batch) -> Tensor:
        """(m,) float32 numbers of targets by modality, as `forward` would count them; cheap."""
        starts = document_starts(batch.document_ids, batch.modality_ids.shape)
        if self.training:
            starts = self.diffusion.drop_context(batch, starts, self._discrete)
        targets = next_tokens(batch, starts, self._vocab_offsets, self._discrete)
        continuous = bool(self.diffusion.modalities)
        return count_targets(batch, targets, self._discrete, continuous=continuous)

    @torch.no_grad()
    def advance(
        self,
        tokens: Tensor,
        modality_ids: Tensor,
        state: ModelState | Sequence[MambaState] | None = None,
        *,
        document_ids: Tensor | None = None,
        values: Mapping[str, Tensor] | None = None,
        all_positions: bool = False,
    ) -> tuple[Tensor, ModelState]:
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
        if self.config.mixer != "mamba":
            raise ValueError(
                "the transformer baselines carry no state to continue from; "
                "run them on whole sequences with model(batch, return_logits=True)"
            )
        if not batch.shape[1] and not all_positions:
            raise ValueError("there are no tokens to advance by; give at least one per sequence")
        batch = batch.to(self.device)
        routing = self.prepare(batch, state)
        inputs = self.diffusion.add_noise(batch, routing, self._discrete, clean=True)
        rows = self.embed(batch, routing, inputs)
        hidden, blocks = self.backbone(rows, routing, state)
        after = state_after(self.config, state, blocks, batch)
        assert after is not None
        if all_positions:
            return self.head(routing.to_time(hidden)), after
        if routing.rows is None:
            return self.head(hidden.view(*batch.shape, -1)[:, -1]), after
        return self.head(hidden[routing.rows[:, -1].long()]), after

    def parameter_count(self, *, active: bool = False) -> int:
        """Number of parameters; with `active`, those that one token meets."""
        shapes = {name: p.shape for name, p in self.named_parameters()}
        return parameter_counts(shapes, self.config)[active]
