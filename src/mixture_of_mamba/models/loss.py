"""What a forward pass gives, what each position is to predict, and how losses become one number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from ..batch import Batch
from .state import ModelState

__all__ = ["ModelOutput", "Targets", "count_targets", "next_tokens", "total_loss"]


@dataclass
class ModelOutput:
    """What one forward pass gives, for a model of `m` modalities.

    Attributes:
        names: of the modalities, in the order of their ids.
        loss: scalar; see `total_loss`.
        totals: (m,) sum of the losses by modality of the target (nats, or mean squared errors for
            continuous ones), with gradients: whoever divides a batch needs sums, because its parts
            have different numbers of targets.
        counts: (m,) number of targets by modality.
        logits: (b, t, joint vocabulary) if asked for.
        state: of every block after the batch, if asked for.
        noise_levels: by name of a continuous modality, (NOISE_BINS, 2) sum of its squared errors
            and number of positions by noise level, from clean to noise.
    """

    names: tuple[str, ...]
    loss: Tensor
    totals: Tensor
    counts: Tensor
    logits: Tensor | None = None
    state: ModelState | None = None
    noise_levels: dict[str, Tensor] = field(default_factory=dict)

    @property
    def means(self) -> Tensor:
        """(m,) mean loss by modality, without gradients; NaN where the batch has no target."""
        return self.totals.detach() / self.counts

    @property
    def losses(self) -> dict[str, Tensor]:
        """The mean loss by name of the modality; NaN where the batch has no target of it."""
        return dict(zip(self.names, self.means, strict=True))


_LEAVES = ("loss", "totals", "counts", "logits", "state", "noise_levels")


def _flatten(output: ModelOutput) -> tuple[list[Any], tuple[str, ...]]:
    return [getattr(output, name) for name in _LEAVES], output.names


def _unflatten(leaves: Iterable[Any], names: tuple[str, ...]) -> ModelOutput:
    return ModelOutput(names, *leaves)


# A tree of tensors for wrappers: DDP with a static graph averages what it finds here.
register_pytree_node(
    ModelOutput,
    _flatten,
    _unflatten,
    serialized_type_name="mixture_of_mamba.ModelOutput",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=lambda output: (
        [(GetAttrKey(name), getattr(output, name)) for name in _LEAVES],
        output.names,
    ),
)


class Targets(NamedTuple):
    """What each position of a batch is to predict; all (b, t).

    Attributes:
        ids: next token in the joint vocabulary.
        modality: of the next token.
        mask: whether the next token is a target of cross entropy.
    """

    ids: Tensor
    modality: Tensor
    mask: Tensor


def next_tokens(
    batch: Batch, starts: Tensor | None, vocab_offsets: Tensor, discrete: Tensor
) -> Targets:
    """The next token of its own document, at each position.

    Args:
        batch: the windows.
        starts: (b, t) bool, tokens that begin with an empty state, which are no targets; None: none
            do but the first of each window.
        vocab_offsets: (m,) int64, start of each modality's vocabulary in the joint one.
        discrete: (m,) bool, which modalities have cross entropy.
    """
    # Turned, not cut: a slice of t - 1 would bound the lengths that an exported program takes.
    last = torch.arange(batch.shape[1], device=batch.tokens.device) == batch.shape[1] - 1
    modality = batch.modality_ids.roll(-1, 1).masked_fill(last, 0)
    ids = batch.tokens.roll(-1, 1).masked_fill(last, 0) + vocab_offsets[modality]
    mask = (~last).expand(batch.shape)
    if starts is not None:
        mask = mask & ~starts.roll(-1, 1)
    if batch.loss_mask is not None:
        mask = mask & batch.loss_mask.roll(-1, 1)
    return Targets(ids, modality, mask & discrete[modality])


def count_targets(batch: Batch, targets: Targets, discrete: Tensor, *, continuous: bool) -> Tensor:
    """(m,) float32 numbers of targets by modality: next tokens of the discrete ones and, with
    `continuous`, positions of the others; without, these have no target."""
    counts = torch.zeros(len(discrete), device=batch.tokens.device, dtype=torch.float32)
    counts.index_add_(0, targets.modality.flatten(), targets.mask.flatten().float())
    if not continuous:
        return counts
    positions = ~discrete[batch.modality_ids]
    if batch.loss_mask is not None:
        positions = positions & batch.loss_mask
    return counts.index_add_(0, batch.modality_ids.flatten(), positions.flatten().float())


def total_loss(totals: Tensor, counts: Tensor, weights: Tensor, discrete: Tensor) -> Tensor:
    """The loss that is minimised, from sums and counts of a batch, or of all parts of a step.

    The mean cross entropy over all discrete targets, each weighted by its modality's weight (with
    weights of one it is the mean over tokens), and for each continuous modality its weight times
    the mean squared error over its positions.

    Args:
        totals, counts: (m,), see ModelOutput.
        weights: (m,) loss weight of each modality.
        discrete: (m,) bool.
    """
    weighted = totals * weights
    tokens = torch.where(discrete, counts, 0.0).sum().clamp(min=1.0)
    loss = torch.where(discrete, weighted, 0.0).sum() / tokens
    each = torch.where(discrete, 0.0, weighted / counts.clamp(min=1.0))
    return sum(each.unbind(), start=loss)
