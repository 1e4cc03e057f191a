"""Decoding on the CPU with one native call per token: all blocks, the last norm and the head."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..layers import MambaBlock, MambaState
from ..layers.fused import block_weights
from ..models import ModelState, MultimodalModel
from ..ops import native
from ..ops.decode_step import DecodeStep
from .decoders import CachedDecoder
from .ownership import continues
from .steps import why_not_stepping

__all__ = ["NativeDecoder", "native_step", "why_not_native"]


def why_not_native(model: MultimodalModel) -> str | None:
    """None where `native_step` can serve the model, else the reason."""
    weight = model.embedding.weight
    if model.device.type != "cpu":
        return f"the model is on {model.device}"
    if weight.dtype not in (torch.float32, torch.bfloat16):
        return f"the model is {weight.dtype}; float32 and bfloat16 are served"
    return why_not_stepping(model) or native.why_not()


def native_step(model: MultimodalModel, weights: str | None = None) -> DecodeStep:
    """The prepared weights of a model; later changes of the model are not seen.

    Args:
        model: on the CPU.
        weights: "float32", "bfloat16" or "int8"; None: as the model has them.

    Raises:
        ValueError: an unknown format, or a model that cannot be served, with the reason.
    """
    if reason := why_not_native(model):
        raise ValueError(f"this model cannot be decoded natively: {reason}")
    form = weights or str(model.embedding.weight.dtype).removeprefix("torch.")
    norm = model.backbone.norm
    return DecodeStep(
        [block_weights(cast(MambaBlock, block)) for block in model.backbone.blocks],
        eps=cast(float, norm.eps),
        final_norm=norm.weight,
        head=model.head.weight,
        weights=form,
    )


class NativeDecoder(CachedDecoder):
    """Prompts go through the model; steps are native calls that update float32 states in place.

    Args:
        model: on the CPU.
        step: from `native_step`; decoders may share it.
    """

    def __init__(self, model: MultimodalModel, step: DecodeStep | None = None) -> None:
        super().__init__(model)
        self._step = step or native_step(model)
        self._low = torch.tensor([low for low, _ in model.config.vocabulary_ranges])
        self._states: list[tuple[Tensor, Tensor]] = []
        self._position = torch.empty(0, dtype=torch.int64)
        self._document: Tensor | None = None

    @continues
    @torch.no_grad()
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        x = self.model.embedding(tokens + self._low[modality_ids])
        self._position = self._position + 1
        return self._step(x, modality_ids, self._states)

    def _store(self, cache: ModelState) -> None:
        def copied(x: Tensor) -> Tensor:  # the states change in place; the cache may be a snapshot
            return x.detach().to(torch.float32, copy=True).contiguous()

        self._states = [(copied(s.conv), copied(s.ssm)) for s in cache]
        self._position, self._document = cache.position, cache.document

    @property
    def _present(self) -> ModelState:
        """Borrows the states: what is kept of it must be copied, as selecting rows does."""
        if not self._states:
            raise RuntimeError("the decoder has read no prompt yet; call start first")
        dtype = self.model.embedding.weight.dtype
        blocks = tuple(MambaState(conv.to(dtype), ssm) for conv, ssm in self._states)
        return ModelState(self.model.config, blocks, self._position, self._document)
