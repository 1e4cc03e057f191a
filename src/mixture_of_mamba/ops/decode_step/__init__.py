"""One token of every sequence through a whole model: all blocks, the last norm and the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..derivatives import formula_needed
from ..dispatch import choose, preferred
from ..mamba_block import Weights
from .inputs import FORMATS, StepInputs

__all__ = ["FORMATS", "DecodeStep", "StepInputs"]


class DecodeStep:
    """All blocks, the last norm and the head, for one token of each sequence.

    On the CPU a step is one native call. With few sequences it costs the time of reading the
    weights once, so they are kept in the format asked for; activations, sums and states are float32
    in every format. (On CPUs with AMX, five and more sequences that share a weight go to the tile
    unit where it is bfloat16 or int8: 16 bits of an activation count there. The error is below
    1e-5; rounding the weights costs 5e-4 and more.) Elsewhere the step runs in torch's operations.

    Later changes of the weights may not be seen. A step holds no states of its own, so threads may
    share one, each with its own states.

    Args:
        blocks: weights of each block (layers.fused.block_weights).
        eps: of all norms.
        final_norm: (d_model,) weight of the norm after the blocks; None: stop before it.
        head: (v, d_model) output map; None: no logits.
        weights: "float32", "bfloat16" or "int8" (weight only, one scale a row); None: as they are.
        backend: "cpu", "torch", or None for the best that can serve.

    Raises:
        BackendError: the named backend, or every one, cannot serve, with the reason.
        ValueError: an unknown format, blocks of different shapes, a head without its norm.

    Example:
        >>> step = DecodeStep(blocks, eps=1e-5, final_norm=norm, head=head, weights="int8")
        >>> states = step.new_states(batch=2)
        >>> logits = step(x, modality, states)  # x (2, d_model), modality (2,); states move on
    """

    def __init__(
        self,
        blocks: Sequence[Weights],
        *,
        eps: float,
        final_norm: Tensor | None = None,
        head: Tensor | None = None,
        weights: str | None = "float32",
        backend: str | None = None,
    ) -> None:
        if weights is not None and weights not in FORMATS:
            raise ValueError(f"weights is {weights!r}; choose from {FORMATS}")
        if not blocks or len({_shape(w) for w in blocks}) != 1:
            raise ValueError("blocks must be at least one, and all of one shape")
        if head is not None and final_norm is None:
            raise ValueError("a head reads normed rows; give final_norm as well")
        inputs = StepInputs(tuple(blocks), eps, final_norm, head, weights)
        self.format = weights or inputs.dtype_name
        self.d_model = inputs.d_model
        self.backend, self._module = choose(
            "decode_step", inputs, preferred("decode_step", backend)
        )
        self.prepared: Any = self._module.prepare(inputs)
        self._blocks = len(blocks)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the projections and the head, of every modality: what a step reads at most."""
        return int(self.prepared.weight_bytes)

    def new_states(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Zero states: for each block conv (b, k-1, d) and ssm (b, d, n); float32 natively."""
        found: list[tuple[Tensor, Tensor]] = self._module.new_states(self.prepared, batch)
        return found

    def __call__(
        self, x: Tensor, modality: Tensor, states: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """One step.

        Args:
            x: (b, d_model) embeddings.
            modality: (b,) integers, the modality of each sequence's token.
            states: per block conv (b, k-1, d), oldest first, and ssm (b, d, n), contiguous and in
                the dtypes of `new_states` (MambaState of a float32 model fits); they are updated in
                place.

        Returns:
            Logits (b, v), float32 natively; without a head the (normed) hidden rows (b, d_model).

        Raises:
            ValueError: shapes, dtypes or modalities that do not fit; a derivative is asked for.
        """
        if formula_needed(x) or (torch.is_grad_enabled() and x.requires_grad):
            raise ValueError(
                "the decode step has no derivatives; call it under torch.no_grad(), or "
                "run the blocks themselves"
            )
        b = x.shape[0]
        if x.shape != (b, self.d_model):
            raise ValueError(f"x has shape {tuple(x.shape)}; (batch, {self.d_model}) is needed")
        if modality.shape != (b,):
            raise ValueError(f"modality has shape {tuple(modality.shape)}; ({b},) is needed")
        if modality.is_floating_point() or modality.dtype == torch.bool:
            raise ValueError(f"modality is {modality.dtype}; integers are needed")
        if len(states) != self._blocks:
            raise ValueError(f"there are {len(states)} states, but {self._blocks} blocks")
        with torch.no_grad():  # the states, updated in place, would take every step's graph along
            y: Tensor = self._module.step(self.prepared, x, modality, states)
        return y


def _shape(w: Weights) -> tuple[torch.Size | None, ...]:
    return tuple(None if v is None else v.shape for v in w)
