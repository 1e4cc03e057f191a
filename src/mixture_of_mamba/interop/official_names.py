"""State dicts of a stacked mixer under the official release's names, by hooks.

ours                      official, split                        official, shared
in_proj.weight (m,o,i)    local_experts_in_proj.{m}.weight (o,i)  in_proj.weight (o,i)
dt_proj.bias (m,o)        local_experts_dt_proj.{m}.bias (o)      dt_proj.bias (o)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import PROJECTIONS

__all__ = ["install_official_names"]


def install_official_names(module: nn.Module) -> None:
    """`module.state_dict()` gives, and `load_state_dict` takes, the official names.

    Args:
        module: a mixer whose `config.split` names the projections with experts.
    """
    # Functions of this file, so that a whole module can be pickled.
    module.register_state_dict_post_hook(_save)
    module.register_load_state_dict_pre_hook(_load)


def _save(owner: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for projection, part in _stacked(owner):
        stacked = state.pop(f"{prefix}{projection}.{part}")
        for name, expert in zip(
            _names(owner, prefix, projection, part, len(stacked)), stacked, strict=True
        ):
            state[name] = expert


def _load(
    owner: nn.Module,
    state: dict[str, Any],
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    for projection, part in _stacked(owner):
        current = getattr(getattr(owner, projection), part)
        experts = []
        for name, own in zip(
            _names(owner, prefix, projection, part, len(current)), current.detach(), strict=True
        ):
            given = state.pop(name, None)
            if given is None:
                missing.append(name)
            elif given.shape != own.shape:
                errors.append(f"{name} has shape {tuple(given.shape)}, needs {tuple(own.shape)}")
                given = None
            experts.append(own if given is None else given.to(own.device))
        state[f"{prefix}{projection}.{part}"] = torch.stack(experts)


def _stacked(owner: nn.Module) -> Iterable[tuple[str, str]]:
    """(projection, "weight" or "bias") of every stacked parameter."""
    for projection in sorted(PROJECTIONS):
        for part in ("weight", "bias"):
            if isinstance(getattr(getattr(owner, projection), part), Tensor):
                yield projection, part


def _names(owner: Any, prefix: str, projection: str, part: str, experts: int) -> list[str]:
    if projection in owner.config.split:
        return [f"{prefix}local_experts_{projection}.{m}.{part}" for m in range(experts)]
    return [f"{prefix}{projection}.{part}"]
