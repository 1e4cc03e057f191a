"""The formula: each row times the weight of its own modality, plain autograd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import LinearInputs

__all__ = ["modality_linear_formula", "modality_linear_reference"]


def modality_linear_reference(inputs: LinearInputs) -> Tensor:
    """y[i] = weight[e(i)] @ x[i] + bias[e(i)], e(i) the modality whose rows hold row i."""
    expert = inputs.experts()
    y = torch.einsum("ri,roi->ro", inputs.x, inputs.weight[expert])
    return y if inputs.bias is None else y + inputs.bias[expert]


def modality_linear_formula(inputs: LinearInputs) -> Tensor:
    """The same in whole products, one per modality: m times the work, but no copy of a weight for
    each row. In operations that torch differentiates in every way; nothing is read on the host."""
    expert, y = inputs.experts()[:, None], None
    for m, weight in enumerate(inputs.weight.unbind()):
        here = F.linear(inputs.x, weight, None if inputs.bias is None else inputs.bias[m])
        y = here if y is None else torch.where(expert == m, here, y)
    assert y is not None
    return y
