"""Converts between MultimodalModel and the class for transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...models import MultimodalModel
from .configuration import MixtureOfMambaConfig
from .modeling import MixtureOfMambaForCausalLM

__all__ = ["from_multimodal", "to_multimodal"]

_NAMES = (
    ("backbone.embeddings.", "embedding."),
    ("backbone.layers.", "backbone.blocks."),
    ("backbone.norm_f.", "backbone.norm."),
    ("lm_head.", "head."),
)


def from_multimodal(model: MultimodalModel, **config: Any) -> MixtureOfMambaForCausalLM:
    """A copy of a model over discrete modalities for transformers.

    Args:
        model: discrete modalities only.
        config: further fields of the configuration, such as eos_token_id.

    Raises:
        ValueError: a continuous modality, or another mixer than Mamba.
    """
    theirs = MixtureOfMambaForCausalLM(
        MixtureOfMambaConfig.from_model_config(model.config, **config)
    )
    theirs.to(model.embedding.weight.device)  # type: ignore[arg-type]
    for name, tensor in model.state_dict().items():
        theirs.get_parameter(_renamed(name, 1, 0)).data = _wide(name, tensor).clone()
    theirs.tie_weights()
    return theirs.train(model.training)


def to_multimodal(theirs: MixtureOfMambaForCausalLM) -> MultimodalModel:
    """A copy of transformers' model as a MultimodalModel."""
    with torch.device("meta"):
        model = MultimodalModel(theirs.config.to_model_config())
    state = {_renamed(k, 0, 1): _wide(k, p).clone() for k, p in theirs.state_dict().items()}
    model.take_weights(state, theirs.device)
    return model.train(theirs.training)


def _wide(name: str, tensor: Tensor) -> Tensor:
    """A_log and D, which set the decay of the state, in float32 or wider; the rest as it is."""
    if not name.endswith((".A_log", ".D")):
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _renamed(name: str, old: int, new: int) -> str:
    for pair in _NAMES:
        if name.startswith(pair[old]):
            return pair[new] + name.removeprefix(pair[old])
    raise ValueError(f"tensor {name} has no counterpart")
