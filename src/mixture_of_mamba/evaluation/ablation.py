"""Which projections are worth splitting, alone and together, from a comparison of splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..files import write_json, write_text
from ..layers import PROJECTION_ORDER
from .figures import Figures
from .intervals import Estimate, estimate
from .tables import gain_text, markdown_table, match_text, percent_text
from .variants import all_splits

__all__ = [
    "Synergy",
    "ablation",
    "ablation_rows",
    "gains_of",
    "is_ablation",
    "seeds_statement",
    "synergy",
    "synergy_rows",
    "write_ablation",
]


@dataclass(frozen=True)
class Synergy:
    """Gains of one modality, in percent of the dense model's final loss.

    Attributes:
        singles: gain of splitting one projection alone, by projection.
        sum_of_singles: their sum.
        joint: gain of splitting all four.
        excess: joint gain beyond the sum of the single gains, seed by seed; above zero is synergy.
    """

    singles: Mapping[str, Estimate]
    sum_of_singles: Estimate
    joint: Estimate
    excess: Estimate


def is_ablation(figures: Figures) -> bool:
    """Whether a comparison holds all 16 splits."""
    return set(all_splits()) <= set(figures.variants)


def synergy(gains: Mapping[str, Sequence[float | None]]) -> Synergy:
    """Single gains and the joint gain of one modality.

    Args:
        gains: by variant, of each seed; None where there is none (the dense loss is 0).
    """
    numbers = {
        name: [math.nan if gain is None else gain for gain in gains[name]]
        for name in (*PROJECTION_ORDER, "mom")
    }

    def over_seeds(values: list[float]) -> Estimate:
        return estimate([None if math.isnan(value) else value for value in values])

    singles = {name: numbers[name] for name in PROJECTION_ORDER}
    sums = [sum(of_seed) for of_seed in zip(*singles.values(), strict=True)]
    joint = numbers["mom"]
    return Synergy(
        {name: over_seeds(values) for name, values in singles.items()},
        over_seeds(sums),
        over_seeds(joint),
        over_seeds([whole - parts for whole, parts in zip(joint, sums, strict=True)]),
    )


def gains_of(figures: Figures, modality: str) -> dict[str, Sequence[float | None]]:
    """Gains of one modality by variant, of each seed."""
    return {name: variant.gain(modality).values for name, variant in figures.variants.items()}


def ablation(figures: Figures) -> dict[str, Any]:
    """The content of ablation.json: gains by split and modality, and the synergy."""
    rows = {}
    for name in all_splits():
        plain = figures.variants[name].to_json()
        rows[name] = {
            "parameters": plain["parameters"],
            "final_loss": plain["final_loss"],
            "gain_percent": plain["gain_percent"],
            "gain_interval": plain["intervals"]["gain_percent"],
            "relative_flops_to_match": plain["relative_flops_to_match"],
        }
    found = {modality: synergy(gains_of(figures, modality)) for modality in figures.modalities}
    return {
        "setting": figures.setting,
        "seeds": list(figures.seeds),
        "steps": figures.steps,
        "splits": rows,
        "synergy": {
            modality: {
                "single_gains_percent": {name: gain.mean for name, gain in s.singles.items()},
                "sum_of_single_gains_percent": s.sum_of_singles.mean,
                "joint_gain_percent": s.joint.mean,
                "excess_percent": s.excess.mean,
                "excess_interval": s.excess.interval and list(s.excess.interval),
                "excess_by_seed": list(s.excess.values),
            }
            for modality, s in found.items()
        },
    }


def ablation_rows(figures: Figures) -> list[tuple[str, ...]]:
    """Header and one row per split: per modality the gain and the FLOPs to match."""
    names = figures.modalities
    head = ["split", "parameters"]
    for modality in names:
        head += [f"{modality}: gain", "FLOPs to match"]
    rows = [tuple(head)]
    for split in all_splits():
        variant = figures.variants[split]
        row = [{"dense": "none (dense)", "mom": "all four (mom)"}.get(split, split)]
        row.append(f"{variant.parameters:,}")
        for modality in names:
            row.append(percent_text(variant.gain(modality).mean, 2))
            row.append(match_text(replace(variant.flops_to_match(modality), interval=None)))
        rows.append(tuple(row))
    return rows


def synergy_rows(figures: Figures) -> list[tuple[str, ...]]:
    """Header and one row per modality: single gains, their sum, the joint gain, and the excess with
    its interval."""
    rows: list[tuple[str, ...]] = [("", *PROJECTION_ORDER, "sum of singles", "all four", "excess")]
    for modality in figures.modalities:
        s = synergy(gains_of(figures, modality))
        gains = (*s.singles.values(), s.sum_of_singles, s.joint)
        excess = gain_text(s.excess, 2)
        rows.append((modality, *(percent_text(gain.mean, 2) for gain in gains), excess))
    return rows


def seeds_statement(figures: Figures) -> str:
    """What the number of seeds says about the excess."""
    noise = (
        "The excess adds up the noise of six runs, the dense one three times: where splits do "
        "nothing, its standard deviation is 3.7 times that of one run's final loss."
    )
    if (n := len(figures.seeds)) == 1:
        return f"One seed, so the excess has no interval. {noise}"
    return f"In brackets: 95 % t interval of the excess over {n} seeds. {noise}"


def write_ablation(folder: Path, figures: Figures) -> None:
    """Write ablation.json, and the tables as ablation.md."""
    write_json(folder / "ablation.json", ablation(figures), indent=2)
    tables = [markdown_table(rows(figures)) for rows in (synergy_rows, ablation_rows)]
    text = "\n\n".join([tables[0], seeds_statement(figures), tables[1]])
    write_text(folder / "ablation.md", text + "\n")
