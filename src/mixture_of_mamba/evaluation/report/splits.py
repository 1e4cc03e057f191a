"""Report section: gains of all 16 splits, and whether they add up."""

from __future__ import annotations

from ...layers import PROJECTION_ORDER
from ..ablation import ablation_rows, is_ablation, seeds_statement, synergy_rows
from ..figures import Figures
from ..variants import all_splits
from .charts import bars
from .html import figure, section, table

__all__ = ["splits"]


def splits(figures: Figures) -> str:
    """Bars per modality and the tables; nothing where the comparison is no ablation."""
    if not is_ablation(figures):
        return ""
    drawings = []
    for modality in figures.modalities:
        gains = {
            name.replace("_proj", ""): gain
            for name in all_splits()[1:]
            if (gain := figures.variants[name].gain(modality).mean) is not None
        }
        if len(gains) < len(all_splits()) - 1:
            continue
        values = dict(sorted(gains.items(), key=lambda item: -item[1]))
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
