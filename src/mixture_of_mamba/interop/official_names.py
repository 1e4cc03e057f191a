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


def install_official_names(module: nn.Module, split: frozenset[str]) -> None:
    """`module.state_dict()` gives, and `load_state_dict` takes, the official names."""

    def save(owner: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for projection, part in _stacked(owner):
            stacked = state.pop(f"{prefix}{projection}.{part}")
            for name, expert in zip(
                _names(prefix, projection, part, len(stacked), split), stacked, strict=True
            ):
                state[name] = expert

    def load(
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
            names = _names(prefix, projection, part, len(current), split)
            experts = []
            for name, own in zip(names, current.detach(), strict=True):
                given = state.pop(name, None)
                if given is None:
                    missing.append(name)
                elif given.shape != own.shape:
                    errors.append(
                        f"{name} has shape {tuple(given.shape)}, needs {tuple(own.shape)}"
                    )
                    given = None
                experts.append(own if given is None else given.to(own.device))
            state[f"{prefix}{projection}.{part}"] = torch.stack(experts)

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)


def _stacked(owner: nn.Module) -> Iterable[tuple[str, str]]:
    """(projection, "weight" or "bias") of every stacked parameter."""
    for projection in sorted(PROJECTIONS):
        for part in ("weight", "bias"):
            if isinstance(getattr(getattr(owner, projection), part), Tensor):
                yield projection, part


def _names(
    prefix: str, projection: str, part: str, experts: int, split: frozenset[str]
) -> list[str]:
    if projection in split:
        return [f"{prefix}local_experts_{projection}.{m}.{part}" for m in range(experts)]
    return [f"{prefix}{projection}.{part}"]
