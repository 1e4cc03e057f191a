"""Which projections are worth splitting, alone and together, from a comparison of splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .tables import interval_text, percent_text
from .variants import PROJECTION_ORDER, all_splits

__all__ = ["Synergy", "ablation", "ablation_rows", "is_ablation", "synergy", "synergy_rows"]


@dataclass(frozen=True)
class Synergy:
    """Gains of one modality, in percent of the dense model's final loss.

    Attributes:
        singles: gain of splitting one projection alone, by projection.
        joint: gain of splitting all four.
    """

    singles: Mapping[str, float]
    joint: float

    @property
    def sum_of_singles(self) -> float:
        return sum(self.singles.values())

    @property
    def excess(self) -> float:
        """Joint gain beyond the sum of the single gains; above zero is synergy."""
        return self.joint - self.sum_of_singles


def is_ablation(figures: Mapping[str, Any]) -> bool:
    """Whether a comparison holds all 16 splits."""
    return set(all_splits()) <= set(figures["variants"])


def synergy(figures: Mapping[str, Any], modality: str) -> Synergy:
    """Single gains and the joint gain of one modality.

    Args:
        figures: the content of comparison.json.
    """
    gain = {name: v["gain_percent"][modality] for name, v in figures["variants"].items()}
    return Synergy({name: gain[name] for name in PROJECTION_ORDER}, gain["mom"])


def ablation(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ablation.json: gains by split and modality, and the synergy."""
    rows = {
        name: {
            "parameters": figures["variants"][name]["parameters"],
            "final_loss": figures["variants"][name]["final_loss"],
            "gain_percent": figures["variants"][name]["gain_percent"],
            "gain_interval": figures["variants"][name]["intervals"]["gain_percent"],
            "relative_flops_to_match": figures["variants"][name]["relative_flops_to_match"],
        }
        for name in all_splits()
    }
    found = {modality: synergy(figures, modality) for modality in figures["modalities"]}
    return {
        "setting": figures["setting"],
        "seeds": figures["seeds"],
        "steps": figures["steps"],
        "splits": rows,
        "synergy": {
            modality: {
                "single_gains_percent": dict(s.singles),
                "sum_of_single_gains_percent": s.sum_of_singles,
                "joint_gain_percent": s.joint,
                "excess_percent": s.excess,
            }
            for modality, s in found.items()
        },
    }


def ablation_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Header and one row per split: per modality the gain and the FLOPs to match."""
    names = figures["modalities"]
    head = ["split", "parameters"]
    for modality in names:
        head += [f"{modality}: gain", "FLOPs to match"]
    rows = [tuple(head)]
    for split in all_splits():
        variant = figures["variants"][split]
        row = [{"dense": "none (dense)", "mom": "all four (mom)"}.get(split, split)]
        row.append(f"{variant['parameters']:,}")
        for modality in names:
            row.append(percent_text(variant["gain_percent"][modality], 2))
            row.append(interval_text(variant["relative_flops_to_match"][modality], None))
        rows.append(tuple(row))
    return rows


def synergy_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Header and one row per modality: single gains, their sum, the joint gain, the excess."""
    rows: list[tuple[str, ...]] = [("", *PROJECTION_ORDER, "sum of singles", "all four", "excess")]
    for modality in figures["modalities"]:
        s = synergy(figures, modality)
        gains = (*s.singles.values(), s.sum_of_singles, s.joint, s.excess)
        rows.append((modality, *(percent_text(gain, 2) for gain in gains)))
    return rows
