"""Variants of a comparison by name, as overrides of the model's settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from ..layers import PROJECTION_ORDER, parse_split
from ..training.config import RunConfig

__all__ = ["all_splits", "variant_config", "variant_fields"]

#: name -> fields of ModelSettings; any other name is a set of projections such as "in_proj+x_proj".
VARIANTS: dict[str, dict[str, str]] = {
    "dense": {"split": "none", "mixer": "mamba"},
    "mom": {"split": "all", "mixer": "mamba"},
    "transformer": {"split": "none", "mixer": "attention"},
    "mot": {"split": "all", "mixer": "attention"},
}


def variant_config(config: RunConfig, variant: str, seed: int) -> RunConfig:
    """The run of one variant and seed; all else stays as it is, so that the comparison is fair. One
    thread where the config names no number, since runs are trained side by side.

    Raises:
        ValueError: a name that is neither a variant nor a set of projections.
    """
    fields = variant_fields(variant)
    model = replace(config.model, split=fields["split"], mixer=fields["mixer"])
    threads = config.train.threads or 1
    return replace(config, model=model, train=replace(config.train, seed=seed, threads=threads))


def variant_fields(variant: str) -> dict[str, str]:
    """The fields of ModelSettings that a variant's name stands for.

    Raises:
        ValueError: a name that is neither a variant nor a set of projections.
    """
    if variant in VARIANTS:
        return VARIANTS[variant]
    try:
        parse_split(variant)
    except ValueError:
        raise ValueError(
            f"there is no variant {variant!r}; choose from {', '.join(VARIANTS)}, or join "
            f"projections to split by '+': {', '.join(PROJECTION_ORDER)}"
        ) from None
    return {"split": variant, "mixer": "mamba"}


def all_splits() -> list[str]:
    """The 16 sets of split projections as variants: "dense" first, "mom" last."""
    names = [
        "+".join(split)
        for size in range(1, len(PROJECTION_ORDER))
        for split in combinations(PROJECTION_ORDER, size)
    ]
    return ["dense", *names, "mom"]
