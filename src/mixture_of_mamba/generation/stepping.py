"""Decoding with one decode step per token, natively or in torch, past the model's modules."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..layers import MambaBlock, MambaState
from ..layers.fused import block_weights, plain_weights
from ..layers.plain import as_built
from ..models import ModelState, MultimodalModel
from ..models.backbone import Backbone
from ..models.vocabulary import DiscreteHead
from ..ops.decode_step import DecodeStep, StepInputs, cpu
from .decoders import CachedDecoder
from .ownership import continues

__all__ = ["SteppingDecoder", "model_step", "why_not_native", "why_not_stepping"]

_as_built = as_built(Backbone, MambaBlock, nn.RMSNorm, DiscreteHead)


def why_not_stepping(model: MultimodalModel) -> str | None:
    """None where `SteppingDecoder` can serve the model, else the reason.

    It reads the weights past their modules, so whatever hangs on one of these (an adapter, a hook,
    a wrapper for sharding or offloading) must run by itself.
    """
    if model.config.mixer != "mamba":
        return "the model has attention blocks"
    backbone = model.backbone
    for name, part in (("backbone", backbone), ("norm", backbone.norm), ("head", model.head)):
        if not _as_built(part):
            return f"the {name} was wrapped, hooked or replaced"
    for weight in (backbone.norm.weight, model.head.weight):
        if type(weight) not in (Tensor, nn.Parameter):
            return f"the norm or the head has a {type(weight).__name__} for its weight"
    for i, block in enumerate(backbone.blocks):
        if not _as_built(block):
            return f"block {i} was wrapped, hooked or replaced"
        if plain_weights(cast(MambaBlock, block)) is None:
            return f"a part of block {i} was wrapped, hooked or replaced"
    return None


def why_not_native(model: MultimodalModel) -> str | None:
    """None where the steps of a `SteppingDecoder` are native calls, else the reason."""
    return why_not_stepping(model) or cpu.why_not(_inputs(model))


def model_step(
    model: MultimodalModel, weights: str | None = None, backend: str | None = None
) -> DecodeStep:
    """A model's decode step, which decoders may share; later changes of the model may not be seen.

    Args:
        model: that `why_not_stepping` lets pass.
        weights: "float32", "bfloat16" or "int8"; None: as the model has them.
        backend: see `DecodeStep`.

    Raises:
        BackendError: no backend (or not the named one) serves the model in this format.
        ValueError: an unknown format, or a model that cannot be stepped, with the reason.
    """
    if reason := why_not_stepping(model):
        raise ValueError(f"this model cannot be stepped directly: {reason}; use CachedDecoder")
    blocks, eps, norm, head, _ = _inputs(model)
    return DecodeStep(blocks, eps=eps, final_norm=norm, head=head, weights=weights, backend=backend)


def _inputs(model: MultimodalModel) -> StepInputs:
    blocks = (block_weights(cast(MambaBlock, block)) for block in model.backbone.blocks)
    norm = model.backbone.norm
    return StepInputs(tuple(blocks), cast(float, norm.eps), norm.weight, model.head.weight, None)


class SteppingDecoder(CachedDecoder):
    """Prompts go through the model; steps update states of the decoder's own in place.

    Args:
        model: that `why_not_stepping` lets pass.
        step: from `model_step`; by default the fastest, with weights as the model has them.
    """

    def __init__(self, model: MultimodalModel, step: DecodeStep | None = None) -> None:
        super().__init__(model)
        self._step = step or model_step(model)
        self._low = torch.tensor([low for low, _ in model.config.vocabulary_ranges])
        self._states: list[tuple[Tensor, Tensor]] = []
        self._position = torch.empty(0, dtype=torch.int64)
        self._document: Tensor | None = None

    @continues
    @torch.no_grad()
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        x = self.model.embedding((tokens + self._low[modality_ids]).to(self._device))
        logits = self._step(x, modality_ids, self._states)
        self._position = self._position + 1
        return logits

    @torch.no_grad()
    def _store(self, cache: ModelState) -> None:
        """Copy the states, which change in place: the cache may be a snapshot."""
        self._states = self._step.new_states(cache.batch)
        for (conv, ssm), state in zip(self._states, cache, strict=True):
            conv.copy_(state.conv)
            ssm.copy_(state.ssm)
        self._position, self._document = cache.position, cache.document

    @property
    def _present(self) -> ModelState:
        """Borrows the states: what is kept of it must be copied, as selecting rows does."""
        if not self._states:
            raise RuntimeError("the decoder has read no prompt yet; call start first")
        dtype = self.model.embedding.weight.dtype
        blocks = tuple(MambaState(conv.to(dtype), ssm) for conv, ssm in self._states)
        return ModelState(self.model.config, blocks, self._position, self._document)
