"""The formula: each row times the weight of its own modality, plain autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import LinearInputs

__all__ = ["modality_linear_reference"]


def modality_linear_reference(inputs: LinearInputs) -> Tensor:
    """y[i] = weight[e(i)] @ x[i] + bias[e(i)], e(i) the modality whose rows hold row i."""
    row = torch.arange(inputs.x.shape[0], device=inputs.x.device, dtype=inputs.offsets.dtype)
    expert = torch.searchsorted(inputs.offsets, row, right=True)
    y = torch.einsum("ri,roi->ro", inputs.x, inputs.weight[expert])
    return y if inputs.bias is None else y + inputs.bias[expert]
