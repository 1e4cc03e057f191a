"""Report sections: scores of generated scenes, and loss by noise level."""

from __future__ import annotations

from ...data.digits.proportions import Proportion
from ..figures import Figures
from ..intervals import Estimate
from ..tables import match_text, not_scored, percent_text, scores_tables
from .charts import series, shown_variants
from .html import escape, figure, section, table

__all__ = ["noise_levels", "scores"]


def scores(figures: Figures) -> str:
    """Share of digits, colours and places that are right, by task and variant, with intervals."""
    found = scores_tables(figures, _share)
    tables = [table(rows, caption=title) for title, rows in found]
    left_out = "".join(f" Not judged: {line}." for line in not_scored(figures))
    if not found:
        note = f"<p class='note'>{escape(left_out.strip())}</p>"
        return section("Is it right?", note) if left_out else ""
    return section(
        "Is it right?",
        *tables,
        intro=f"{figures.scores.examples} held-out captions, the same for every run. A "
        "classifier trained on real handwriting reads the generated pictures; generated captions "
        "are parsed. Asked of every digit that should be there: is the digit, its colour, anything "
        "at its place, and all three (fact) right; of every scene: is all of it right and nothing "
        "else there. In brackets: 95 % intervals of each run over other captions, with the scene "
        f"as the unit; how far runs differ, the seeds show.{left_out}",
    )


def noise_levels(figures: Figures) -> str:
    """Loss of continuous modalities from clean to noise at the end of training, and what it takes
    to match it there."""
    baseline = figures.baseline
    names = shown_variants(list(figures.variants), baseline)
    found = {name: figures.variants[name].by_noise_level for name in names}
    parts = []
    for modality, base in found[baseline].items():
        count = base[0].parts
        lines = {
            name: (
                [(noise_bin.part + 0.5) / count for noise_bin in of[modality]],
                [noise_bin.metrics["final_loss"].mean or 0.0 for noise_bin in of[modality]],
            )
            for name, of in found.items()
        }
        svg = series(modality, lines, "noise level (0 clean, 1 noise)", "squared error")
        drawing = figure(svg, f"{modality}: validation loss by noise level")
        rows: list[tuple[str, ...]] = [
            ("noise", *names, *(f"{n}: {x}" for n in names[1:] for x in ("gain", "to match")))
        ]
        for i, first in enumerate(base):
            ends = (f"{100 * (first.part + k) / count:.0f}" for k in (0, 1))
            cells = [f"{of[modality][i].metrics['final_loss'].mean:.4f}" for of in found.values()]
            for name in names[1:]:
                metrics = found[name][modality][i].metrics
                cells.append(_gains(metrics["gain_percent"]))
                cells.append(match_text(metrics["relative_flops_to_match"]))
            rows.append((f"{'–'.join(ends)} %", *cells))
        parts += [f'<div class="charts">{drawing}</div>', table(rows, caption=modality)]
    return section(
        "Loss by noise level",
        *parts,
        intro="Of the vectors of continuous modalities, at the end of training; the same noise "
        "for all variants; mean over seeds, gains by seed in brackets. Where little noise is left "
        "a vector says itself what it shows; towards the end only the context does.",
    )


def _gains(gain: Estimate) -> str:
    """The mean gain, and that of each seed."""
    each = ", ".join(percent_text(v, 0).removesuffix(" %") for v in gain.values)
    return percent_text(gain.mean) + (f" ({each})" if len(gain.values) > 1 else "")


def _share(found: Proportion) -> str:
    share, low, high = (100 * value for value in (found.share, found.low, found.high))
    return f"{share:.0f} % ({low:.0f}–{high:.0f})"
