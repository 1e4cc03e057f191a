"""The ablation: gains of all 16 splits, and whether they add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ablation import ablation_rows, is_ablation, seeds_statement, synergy_rows
from ..variants import PROJECTION_ORDER, all_splits
from .charts import bars
from .html import figure, section, table

__all__ = ["splits"]


def splits(figures: Mapping[str, Any]) -> str:
    """Bars per modality and the tables; nothing where the comparison is no ablation."""
    if not is_ablation(figures):
        return ""
    drawings = []
    for modality in figures["modalities"]:
        gains = {name: figures["variants"][name]["gain_percent"] for name in all_splits()[1:]}
        if any(by_modality[modality] is None for by_modality in gains.values()):
            continue
        values = {
            name.replace("_proj", ""): by_modality[modality]
            for name, by_modality in sorted(gains.items(), key=lambda g: -g[1][modality])
        }
        strong = ["mom", *(p.replace("_proj", "") for p in PROJECTION_ORDER)]
        svg = bars(modality, values, "gain over dense, % of its final loss", strong=strong)
        drawings.append(
            figure(svg, f"{modality}: gain of each split; single projections and all four in blue")
        )
    return section(
        "Which projections to split",
        f'<div class="charts">{"".join(drawings)}</div>',
        table(synergy_rows(figures), caption="Single gains against the joint gain"),
        table(ablation_rows(figures), caption="All 16 splits"),
        intro="Gain: how much lower the final loss is than with no projection split, in percent. "
        "Synergy would be a joint gain above the sum of the single gains (a positive excess). "
        + seeds_statement(figures),
    )
