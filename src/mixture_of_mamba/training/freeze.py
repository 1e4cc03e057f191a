"""Frozen parts of a run: from model.freeze, or from the upcycle.json of its pretrained model."""

from __future__ import annotations

import sys
from dataclasses import replace

from ..interop.start import Start
from ..models import MultimodalModel
from ..models.freezing import SHARED, Frozen, freeze
from .config import RunConfig
from .model_settings import freeze_as_recorded

__all__ = ["freeze_parts", "resolve_freeze"]


def resolve_freeze(config: RunConfig, before: RunConfig | None, start: Start | None) -> RunConfig:
    """The config with what its run freezes written out.

    Args:
        config: of the run; model.freeze None takes what `before` or `start` says, and a modality
            without a count the count that they have.
        before: the config that the run's folder holds already.
        start: the pretrained model that the run begins with.

    Raises:
        ValueError: a part that the run does not have, FSDP, or another freeze than the one that
            the pretrained model was upcycled with.
    """
    parts = config.model.freeze
    if before is not None:
        parts = freeze_as_recorded(parts, before.model.freeze)
    elif start is not None:
        kept = [_with_count(part, start) for part in start.frozen]
        parts = (kept or None) if parts is None else [_with_count(part, start) for part in parts]
        if kept and set(parts or []) != set(kept):
            raise ValueError(
                f"model.freeze is {config.model.freeze}, but {start.folder} was upcycled with "
                f"--freeze {' '.join(start.frozen)}; leave model.freeze out, or upcycle with "
                "another --freeze"
            )
    _check(config, parts or [])
    return replace(config, model=replace(config.model, freeze=parts))


def _with_count(part: str, start: Start) -> str:
    """A modality with the number of tokens that the pretrained model has of it: those that come
    with the run, such as the begin token of a further modality, are trained."""
    return f"{part}:{start.kept[part]}" if part in start.kept else part


def _check(config: RunConfig, parts: list[str]) -> None:
    valid = [*config.modalities, SHARED]
    for part in parts:
        name, colon, count = part.partition(":")
        if name not in valid or (colon and not count.isdigit()):
            raise ValueError(
                f"model.freeze names {part!r}; this run has {', '.join(valid)}, and NAME:N for the "
                "first N tokens of a modality"
            )
    if parts and config.train.devices > 1 and config.train.strategy == "fsdp":
        raise ValueError(
            "model.freeze needs whole parameters, but train.strategy fsdp divides them; give "
            "--train.strategy ddp"
        )


def freeze_parts(
    model: MultimodalModel, parts: list[str] | None, *, quiet: bool = False
) -> Frozen | None:
    """Freeze what model.freeze names, and say so on standard error.

    Args:
        parts: "text", "text:50280" (the first 50,280 tokens of its vocabulary) or "shared".
    """
    if not parts:
        return None
    named = [part.partition(":") for part in parts]
    tokens = {name: int(count) for name, _, count in named if count}
    frozen = freeze(model, [name for name, _, _ in named], tokens=tokens)
    if not quiet:
        print(
            f"frozen: {', '.join(parts)} ({frozen.parameter_count():,} of "
            f"{model.parameter_count():,} parameters)",
            file=sys.stderr,
        )
    return frozen
