"""Mixture -> dense: the experts of each projection averaged into one weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..models import MultimodalModel
from ..models.saving import shapes_of
from .upcycle import Upcycled

__all__ = ["merge"]


def merge(
    model: MultimodalModel | Upcycled, *, weights: Mapping[str, float] | None = None
) -> MultimodalModel:
    """A dense model whose projections are the average of the experts.

    Modalities, vocabulary and heads stay. Experts that are equal, as right after upcycling, give
    their common value to the bit. A merged model over discrete modalities can be saved in the
    formats of dense models (`interop.pretrained`).

    Args:
        model: a mixture, or what `upcycle` gave.
        weights: share of each modality's expert, by name, such as its number of training tokens;
            equal shares by default, zero for omitted names.

    Raises:
        ValueError: a modality that the model lacks, a negative share, or shares that sum to zero.
    """
    model = model.model if isinstance(model, Upcycled) else model
    names = model.config.names
    given = dict.fromkeys(names, 1.0) if weights is None else dict(weights)
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(f"weights name {unknown}; this model has {', '.join(names)}")
    total = sum(given.values())
    if min(given.values(), default=0.0) < 0 or total <= 0:
        raise ValueError(f"weights are {given}; give none below zero and at least one above")
    shares = torch.tensor([given.get(name, 0.0) / total for name in names], dtype=torch.float64)
    config = replace(model.config, split=frozenset[str]())
    with torch.device("meta"):
        dense = MultimodalModel(config)
    shapes = shapes_of(dense.state_dict())
    state = {
        name: tensor.clone() if tensor.shape == shapes[name] else _average(tensor, shares)
        for name, tensor in model.state_dict().items()
    }
    dense.take_weights(state, model.embedding.weight.device)
    return dense


def _average(experts: Tensor, shares: Tensor) -> Tensor:
    """(m, …) -> (1, …), the first expert plus the average difference: exact for equal ones."""
    wide = experts.double()
    weight = shares.to(experts.device).view(-1, *[1] * (experts.ndim - 1))
    average = wide[0] + (weight * (wide - wide[0])).sum(0)
    return average.to(experts.dtype)[None]
