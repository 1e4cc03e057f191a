"""Names that fields of a run had in earlier versions, so that old files and flags stay readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..models.noise import OLD_NAMES

__all__ = ["RENAMED", "with_new_names"]

#: Dotted name of a field in an earlier version -> its name now.
RENAMED = {
    "train.accumulate": "train.gradient_accumulation_steps",
    "train.clip": "train.max_grad_norm",
    "train.recompute": "train.activation_checkpointing",
    "model.start": "model.init_from",
    **{f"model.diffusion.{old}": f"model.diffusion.{new}" for old, new in OLD_NAMES.items()},
}


def with_new_names(plain: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Nested values under the names of this version.

    Args:
        plain: nested values of a run's config, of any version.
        source: what to name in errors.

    Raises:
        ValueError: a field has one value under its old name and another under its new one.
    """
    nested: dict[str, Any] = _copied(plain)
    for old, new in RENAMED.items():
        holder, name = _holder(nested, old)
        if holder is None or name not in holder:
            continue
        value, place = holder.pop(name), new.rpartition(".")[2]
        if place in holder and holder[place] != value:
            raise ValueError(
                f"{source} gives {old}, which is now called {new}, as {value!r} and {new} as "
                f"{holder[place]!r}; leave one of them out"
            )
        holder[place] = value
    return nested


def _copied(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, Mapping) else v for k, v in plain.items()}


def _holder(nested: dict[str, Any], dotted: str) -> tuple[dict[str, Any] | None, str]:
    """The mapping that would hold a dotted name, and the last part of the name."""
    *path, name = dotted.split(".")
    here: Any = nested
    for part in path:
        here = here.get(part) if isinstance(here, dict) else None
    return (here if isinstance(here, dict) else None), name
