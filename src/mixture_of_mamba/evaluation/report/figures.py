"""The headline: cards, table and loss curves with the matching points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..comparison import Comparison
from ..tables import headline_rows, match_text
from .charts import loss_curves, shown_variants
from .html import card, figure, section, table

__all__ = ["headline", "losses", "ratio_cards"]


def ratio_cards(figures: Mapping[str, Any]) -> str:
    """FLOPs to match per modality, of the one variant or of the full mixture."""
    others = [v for v in figures["variants"] if v != figures["baseline"]]
    name = "mom" if "mom" in others else others[0]
    variant = figures["variants"][name]
    cards = []
    for modality in figures["modalities"]:
        ratio = variant["relative_flops_to_match"][modality]
        interval = variant["intervals"]["relative_flops_to_match"][modality]
        gain = variant["gain_percent"][modality]
        value = "—" if ratio is None else f"{100 * ratio:.0f} %"
        note = f"of {figures['baseline']}'s FLOPs to the same loss"
        if ratio is None:
            seeds = variant["by_seed"]["relative_flops_to_match"][modality]
            reached = match_text(None, None, seeds).replace("in ", "reached in ")
            note = f"{figures['baseline']}'s final loss was {reached}"
        elif interval:
            note += f" (interval {100 * interval[0]:.0f}–{100 * interval[1]:.0f})"
        if gain is not None:
            level = abs(gain) < 0.05
            which = "lower" if gain > 0 else "higher"
            note += f"; ends {'level with it' if level else f'{abs(gain):.1f} % {which}'}"
        better = ratio is not None and ratio < 1
        cards.append(card(f"{modality} · {name}", value, note, "good" if better else "bad"))
    return f'<div class="cards">{"".join(cards)}</div>'


def headline(figures: Mapping[str, Any]) -> str:
    """The table of each variant; one table of all where there are many."""
    others = [v for v in figures["variants"] if v != figures["baseline"]]
    if len(others) > 4:
        return ""
    tables = [table(headline_rows(figures, v)) for v in others]
    return section(
        "What it takes to match",
        *tables,
        intro="Share of the baseline's training FLOPs after which the variant has the baseline's "
        "final loss; final validation losses in nats per token, or squared error where a modality "
        "is continuous; and how much lower the variant ends. In brackets: 95 % intervals over "
        "seeds.",
    )


def losses(comparison: Comparison, figures: Mapping[str, Any]) -> str:
    """One drawing per modality."""
    names = shown_variants(list(figures["variants"]), figures["baseline"])
    baseline = figures["baseline"]
    every = " with every seed" if len(comparison.seeds) > 1 else ""
    drawings = []
    for modality in figures["modalities"]:
        curves = {
            name: [
                comparison.curves[name][seed][modality].smoothed(comparison.smoothing)
                for seed in comparison.seeds
            ]
            for name in names
        }
        ratios = {
            name: figures["variants"][name]["relative_flops_to_match"][modality]
            for name in names
            if name != baseline
        }
        target = figures["variants"][baseline]["final_loss"][modality]
        svg = loss_curves(modality, curves, baseline=baseline, target=target, ratios=ratios)
        said = "; ".join(
            f"{name} reaches {baseline}'s final loss ({target:.3f}) at "
            f"{match_text(ratio, None, [])} of its FLOPs"
            if ratio is not None
            else f"{name} does not reach {baseline}'s final loss ({target:.3f})" + every
            for name, ratio in ratios.items()
        )
        drawings.append(figure(svg, said))
    return section(
        "Loss over training FLOPs",
        f'<div class="charts">{"".join(drawings)}</div>',
        intro=f"Dashed: the final loss of {baseline}. Dotted: where each variant reaches it. Thick "
        "lines are means over seeds, thin ones the seeds. The steep beginning is left out.",
    )
