"""Resolves `train.precision auto` to the precision that is measured to be faster."""

from __future__ import annotations

import sys
from dataclasses import replace

from ..models.precision import training
from .config import RunConfig

__all__ = ["resolve_precision"]


def resolve_precision(
    config: RunConfig, before: RunConfig | None, threads: int | None = None
) -> RunConfig:
    """The config with a precision that a resumed run will find in its folder, whatever the machine.

    Args:
        config: its precision may be "auto".
        before: the config of what the folder holds already, which decides.
        threads: of a run's process, where the config does not say.
    """
    if config.train.precision != "auto":
        return config
    if before is not None:
        chosen = before.train.precision
    else:
        measured = training(config.train.resolved_device, config.train.threads or threads)
        chosen = "bf16" if measured.bfloat16 else "float32"
        print(f"train.precision auto is {chosen} ({measured})", file=sys.stderr)
    return replace(config, train=replace(config.train, precision=chosen))
