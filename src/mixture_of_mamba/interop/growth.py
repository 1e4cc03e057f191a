"""The config of a mixture that grows out of a smaller model: modalities, vocabulary and split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..layers import parse_split
from ..modalities.tokenizer_set import marker_tokens
from ..models import Modality, ModelConfig

__all__ = ["grown_config", "parse_modality"]


def grown_config(
    old: ModelConfig, wanted: Sequence[Modality], split: str | frozenset[str] | None
) -> tuple[ModelConfig, dict[str, int]]:
    """The config of a mixture that starts from a model of `old`, and its markers' ids.

    Raises:
        ValueError: see upcycle.
    """
    grown, markers = _grow(old, wanted)
    return replace(old, modalities=grown, split=_split(old, split)), markers


def parse_modality(text: str, known: ModelConfig | None = None) -> Modality:
    """ "image:discrete:1024" as a Modality; a bare name is one that `known` has.

    Raises:
        ValueError: another form, or a bare name of a modality that is not known.
    """
    name, *rest = text.split(":")
    if not rest and known is not None and name in known.names:
        return known.modalities[known.index(name)]
    if not rest and known is not None:
        raise ValueError(
            f"modality {name!r} is new (the model has {', '.join(known.names)}); say what it is: "
            f"{name}:discrete:VOCABULARY or {name}:continuous:WIDTH"
        )
    if len(rest) != 2 or not rest[1].isdigit():
        raise ValueError(
            f"modality {text!r} is not NAME:discrete:VOCABULARY or NAME:continuous:WIDTH"
        )
    return Modality(name, rest[0], int(rest[1]))  # type: ignore[arg-type]


def _grow(
    old: ModelConfig, wanted: Sequence[Modality]
) -> tuple[tuple[Modality, ...], dict[str, int]]:
    """The new list of modalities, with markers appended to text, and the markers' ids."""
    count = len(old.modalities)
    if [m.name for m in wanted[:count]] != list(old.names):
        raise ValueError(
            f"the model has the modalities {', '.join(old.names)}; name them first, in this order, "
            f"and then the new ones (got {', '.join(m.name for m in wanted)})"
        )
    for before, after in zip(old.modalities, wanted, strict=False):
        if after.kind != before.kind or after.size < before.size:
            raise ValueError(
                f"modality {before.name!r} is {before.kind} of size {before.size} in the model; "
                f"it cannot become {after.kind} of size {after.size}"
            )
        if not before.discrete and after.size != before.size:
            raise ValueError(f"modality {before.name!r} has vectors of {before.size}; keep that")
    text = next(i for i, m in enumerate(old.modalities) if m.discrete)
    if wanted[text].size > old.modalities[text].size:
        return tuple(wanted), {}
    names = [token for m in wanted[count:] for token in marker_tokens(m.name, m.kind)]
    size = old.modalities[text].size
    grown = list(wanted)
    grown[text] = replace(grown[text], size=size + len(names))
    return tuple(grown), {token: size + i for i, token in enumerate(names)}


def _split(old: ModelConfig, split: str | frozenset[str] | None) -> frozenset[str]:
    if old.mixer != "mamba":
        raise ValueError(f"the model's mixer is {old.mixer!r}; only Mamba models are upcycled")
    present = old.split if len(old.modalities) > 1 else frozenset()
    if split is None:
        return present or parse_split("all")
    chosen = parse_split(split)
    if lost := present - chosen:
        raise ValueError(
            f"the model has experts in {sorted(lost)}, which split={sorted(chosen)} would merge; "
            "keep them in the split, or merge first (interop.merge)"
        )
    return chosen
