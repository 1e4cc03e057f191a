"""The recurrent state of one block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import _register_namedtuple

__all__ = ["MambaState"]


class MambaState(NamedTuple):
    """State of one block after some tokens; its size does not depend on how many.

    Attributes:
        conv: (b, k-1, d_inner) last inputs of the convolution, oldest first.
        ssm: (b, d_inner, n) float32 scan state.
    """

    conv: Tensor
    ssm: Tensor

    def map(self, function) -> MambaState:  # type: ignore[no-untyped-def]
        """The function applied to both tensors."""
        return MambaState(function(self.conv), function(self.ssm))

    @classmethod
    def zeros(
        cls,
        batch: int,
        d_inner: int,
        d_state: int,
        d_conv: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MambaState:
        """The state before the first token."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return cls(
            torch.zeros(batch, d_conv - 1, d_inner, dtype=dtype, device=device),
            torch.zeros(batch, d_inner, d_state, dtype=wide, device=device),
        )


# torch takes any named tuple for a tree; to be part of a saved program, it needs a name.
_register_namedtuple(MambaState, serialized_type_name="mixture_of_mamba.MambaState")
