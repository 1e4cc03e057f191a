"""Keep the experts and vocabulary of some modalities, or the shared parts, as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..layers import ModalityLinear
from .config import ModelConfig
from .frozen import Frozen
from .model import MultimodalModel

__all__ = ["SHARED", "Frozen", "freeze"]

#: The part that every modality uses: convolutions, A and D, norms, projections that are not split.
SHARED = "shared"


def freeze(
    model: MultimodalModel, parts: Iterable[str], *, tokens: Mapping[str, int] | None = None
) -> Frozen:
    """Freeze the experts and vocabulary of some modalities, the shared parts, or both.

    With text and "shared" frozen, training on other modalities leaves the logits of text, given
    text, unchanged to the bit. Works with any optimizer of torch's; call it before the optimizer is
    made, so that it omits parameters that are frozen altogether. Weights that are loaded later
    are kept as they come. In a copy of the model, whole parameters stay as they are (they need no
    gradient), and rows of others are free: freeze it again.

    Args:
        model: whole, on one device or in DDP; not divided by FSDP.
        parts: names of modalities, and "shared" (convolutions, A and D, norms, projections that
            are not split).
        tokens: how many of a modality's first tokens to freeze; all by default. Upcycling appends
            begin tokens to the text vocabulary, which are to be trained.

    Raises:
        ValueError: no part, one that the model does not have, more tokens than its vocabulary, or a
            model that FSDP has divided.
    """
    parts = tuple(dict.fromkeys(parts))
    tokens = dict(tokens or {})
    _check(model.config, parts, tokens)
    frozen = Frozen(parts)
    done: set[int] = set()
    for name, parameter, rows in _selection(model, parts, tokens):
        if id(parameter) in done or not len(rows):  # tied weights appear twice
            continue
        if hasattr(parameter, "full_tensor"):
            raise ValueError(
                f"{name} is divided among devices (FSDP); freeze works on whole parameters: "
                "train with DDP or on one device"
            )
        done.add(id(parameter))
        owner = model.get_submodule(name.rpartition(".")[0])
        frozen.add(name, owner, parameter, rows)
    frozen.activate()
    return frozen


def _check(config: ModelConfig, parts: tuple[str, ...], tokens: Mapping[str, int]) -> None:
    valid = (*config.names, SHARED)
    if not parts:
        raise ValueError(f"nothing to freeze was named; choose from {', '.join(valid)}")
    if unknown := [p for p in (*parts, *tokens) if p not in valid]:
        raise ValueError(f"cannot freeze {unknown}; this model has {', '.join(valid)}")
    for name, count in tokens.items():
        size = config.modalities[config.index(name)].size
        if not 0 <= count <= size:
            raise ValueError(f"tokens[{name!r}] is {count}; its vocabulary has {size} entries")


def _selection(
    model: MultimodalModel, parts: tuple[str, ...], tokens: Mapping[str, int]
) -> Iterator[tuple[str, nn.Parameter, Tensor]]:
    """(name, parameter, rows of its first axis) of everything that is to stay."""
    config = model.config
    experts = [i for i, m in enumerate(config.modalities) if m.name in parts]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner, _, _ = name.rpartition(".")
        count = parameter.shape[0]
        if owner in ("embedding", "head"):
            yield name, parameter, _vocabulary(config, experts, tokens)
        elif owner.startswith("diffusion."):
            mine = any(owner.startswith(f"diffusion.maps.{p}.") for p in parts)
            yield name, parameter, torch.arange(count if mine else 0)
        elif isinstance(model.get_submodule(owner), ModalityLinear) and count > 1:
            yield name, parameter, torch.tensor(experts, dtype=torch.int64)
        else:
            yield name, parameter, torch.arange(count if SHARED in parts else 0)


def _vocabulary(config: ModelConfig, experts: list[int], tokens: Mapping[str, int]) -> Tensor:
    """Rows of the vocabulary that belong to the frozen modalities."""
    pieces = [torch.arange(0)]
    for i in experts:
        low, high = config.vocabulary_ranges[i]
        pieces.append(torch.arange(low, min(high, low + tokens.get(config.names[i], high - low))))
    return torch.cat(pieces)
