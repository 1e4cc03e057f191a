"""Classifier-free guidance for discrete modalities: two contexts, one sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..models import ModelState, MultimodalModel
from .decoders import Decoder
from .ownership import Owned, continues, starts
from .sequence import TokenSequence

__all__ = ["GuidedDecoder"]


class GuidedDecoder(Owned):
    """logits = without + scale * (with - without), where `without` has not read the prompt.

    Args:
        decoder: reads the prompts.
        other: of the same model; reads `bare` instead.
        bare: the prompt of the second past, such as `<document> <image>`.
        scale: 1 follows the prompt as it is, more leans on it, 0 ignores it.
    """

    def __init__(self, decoder: Decoder, other: Decoder, bare: TokenSequence, scale: float) -> None:
        if not scale >= 0:
            raise ValueError(f"guidance is {scale}; give 0 or more (1 follows the prompt as it is)")
        super().__init__()
        self.model: MultimodalModel = decoder.model
        self.decoder, self.other, self.bare, self.scale = decoder, other, bare, scale

    @starts
    def start(self, prompts: Sequence[TokenSequence]) -> Tensor:
        return self._mix(self.decoder.start(prompts), self.other.start([self.bare] * len(prompts)))

    @continues
    def step(self, tokens: Tensor, modality_ids: Tensor) -> Tensor:
        return self._mix(
            self.decoder.step(tokens, modality_ids), self.other.step(tokens, modality_ids)
        )

    @continues
    def extend(self, rows: Sequence[int], parts: Sequence[TokenSequence]) -> Tensor:
        return self._mix(self.decoder.extend(rows, parts), self.other.extend(rows, parts))

    @continues
    def keep(self, rows: Sequence[int]) -> None:
        self.decoder.keep(rows)
        self.other.keep(rows)

    @continues
    def cache(self, rows: Sequence[int]) -> ModelState:
        return self.decoder.cache(rows)

    def _mix(self, given: Tensor, bare: Tensor) -> Tensor:
        return bare + self.scale * (given - bare)
