"""Report sections: the headline's cards and table, and loss curves with the matching points."""

from __future__ import annotations

from dataclasses import replace

from ..comparison import Comparison
from ..figures import Figures
from ..tables import headline_rows, match_text
from .charts import loss_curves, shown_variants
from .html import card, figure, section, table

__all__ = ["headline", "losses", "ratio_cards"]


def ratio_cards(figures: Figures) -> str:
    """FLOPs to match per modality, of the one variant or of the full mixture."""
    others = figures.others
    name = "mom" if "mom" in others else others[0]
    variant = figures.variants[name]
    cards = []
    for modality in figures.modalities:
        match, gain = variant.flops_to_match(modality), variant.gain(modality).mean
        ratio = match.mean
        value = "—" if ratio is None else f"{100 * ratio:.0f} %"
        note = f"of {figures.baseline}'s FLOPs to the same loss"
        if ratio is None:
            reached = match_text(match).replace("in ", "reached in ")
            note = f"{figures.baseline}'s final loss was {reached}"
        elif match.interval:
            low, high = match.interval
            note += f" (interval {100 * low:.0f}–{100 * high:.0f})"
        if gain is not None:
            level = abs(gain) < 0.05
            which = "lower" if gain > 0 else "higher"
            note += f"; ends {'level with it' if level else f'{abs(gain):.1f} % {which}'}"
        better = ratio is not None and ratio < 1
        cards.append(card(f"{modality} · {name}", value, note, "good" if better else "bad"))
    return f'<div class="cards">{"".join(cards)}</div>'


def headline(figures: Figures) -> str:
    """The table of each variant; one table of all where there are many."""
    others = figures.others
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


def losses(comparison: Comparison, figures: Figures) -> str:
    """One drawing per modality."""
    names = shown_variants(list(figures.variants), figures.baseline)
    baseline = figures.baseline
    every = " with every seed" if len(comparison.seeds) > 1 else ""
    drawings = []
    for modality in figures.modalities:
        curves = {
            name: [
                comparison.curves[name][seed][modality].smoothed(comparison.smoothing)
                for seed in comparison.seeds
            ]
            for name in names
        }
        matches = {
            name: replace(figures.variants[name].flops_to_match(modality), interval=None)
            for name in names
            if name != baseline
        }
        ratios = {name: match.mean for name, match in matches.items()}
        target = figures.variants[baseline].final_loss(modality)
        svg = loss_curves(modality, curves, baseline=baseline, target=target, ratios=ratios)
        said = "; ".join(
            f"{name} reaches {baseline}'s final loss ({target:.3f}) at "
            f"{match_text(match)} of its FLOPs"
            if match.mean is not None
            else f"{name} does not reach {baseline}'s final loss ({target:.3f})" + every
            for name, match in matches.items()
        )
        drawings.append(figure(svg, said))
    return section(
        "Loss over training FLOPs",
        f'<div class="charts">{"".join(drawings)}</div>',
        intro=f"Dashed: the final loss of {baseline}. Dotted: where each variant reaches it. Thick "
        "lines are means over seeds, thin ones the seeds. The steep beginning is left out.",
    )
