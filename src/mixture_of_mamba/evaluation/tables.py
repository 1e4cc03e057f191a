"""Figures of a comparison as tables: for a terminal, for the report, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..data.digits.proportions import Proportion
from ..data.digits.scoring import CEILING_OF, QUESTIONS, TASKS
from .figures import Figures
from .intervals import Estimate
from .scores import Answers

__all__ = [
    "gain_text",
    "headline_rows",
    "markdown_table",
    "match_text",
    "not_scored",
    "percent_text",
    "scores_tables",
    "text_table",
]

TO_MATCH = {
    "relative_flops_to_match": "FLOPs to match",
    "relative_seconds_to_match": "time to match",
}
"""Shares of what the baseline spent; time only where it was measured alone."""


def match_text(found: Estimate) -> str:
    """0.74 with its interval -> "74 % (70–78)"; without a mean, how many seeds reached it."""
    if found.mean is None:
        reached = sum(value is not None for value in found.values)
        return f"in {reached} of {len(found.values)} seeds" if reached else "not reached"
    text = f"{100 * found.mean:.0f} %"
    if found.interval is None:
        return text
    low, high = found.interval
    return f"{text} ({100 * low:.0f}–{100 * high:.0f})"


def percent_text(value: float | None, digits: int = 1) -> str:
    """A signed percentage, without a sign where it rounds to zero; a dash for none."""
    if value is None:
        return "—"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f} %" if rounded else f"{0:.{digits}f} %"


def gain_text(found: Estimate, digits: int = 1) -> str:
    """2.5 with its interval -> "+2.5 % (+1.4 to +3.6)"."""
    if found.mean is None or found.interval is None:
        return percent_text(found.mean, digits)
    low, high = (percent_text(end, digits).removesuffix(" %") for end in found.interval)
    return f"{percent_text(found.mean, digits)} ({low} to {high})"


def headline_rows(figures: Figures, variant: str) -> list[tuple[str, ...]]:
    """Header and one row per modality: losses, gain, relative FLOPs to match, and relative seconds
    where they were measured alone."""
    base, other = figures.variants[figures.baseline], figures.variants[variant]
    keys = [key for key in TO_MATCH if key in other.metrics]
    rows: list[tuple[str, ...]] = [
        ("", *(TO_MATCH[key] for key in keys), figures.baseline, variant, "gain")
    ]
    for name in figures.modalities:
        spent = (match_text(other.metrics[key][name]) for key in keys)
        losses = (f"{v.final_loss(name):.4f}" for v in (base, other))
        rows.append((name, *spent, *losses, gain_text(other.gain(name))))
    return rows


def scores_tables(
    figures: Figures, cell: Callable[[Proportion], str]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    """What is right in what was generated: (task, header and a row per run) of every task that was
    scored; where images are scored, the real ones come last.

    Args:
        cell: the text of a proportion.
    """

    def cells(answers: Answers) -> list[str]:
        return [cell(answers[q]) if q in answers else "" for q in QUESTIONS]

    scores, tables = figures.scores, []
    for task, title in TASKS.items():
        rows: list[tuple[str, ...]] = [("", "seed", *QUESTIONS)]
        for variant, by_seed in scores.runs.items():
            for seed, by_task in by_seed.items():
                if task in by_task:
                    rows.append((variant, seed, *cells(by_task[task])))
        if len(rows) == 1:
            continue
        if task == CEILING_OF and scores.ceiling is not None:
            rows.append(("the real pictures", "", *cells(scores.ceiling)))
        tables.append((title, rows))
    return tables


def not_scored(figures: Figures) -> list[str]:
    """One line for each reason why variants were not scored: "transformer, mot: reason"; and for
    each task that was left out in all."""
    by_reason: dict[str, list[str]] = {}
    for variant, reason in figures.scores.not_scored.items():
        by_reason.setdefault(reason, []).append(variant)
    lines = [f"{', '.join(variants)}: {reason}" for reason, variants in by_reason.items()]
    return lines + [f"{TASKS[task]}: {why}" for task, why in figures.scores.left_out.items()]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
        if number == 0:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The same as a Markdown table."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(cell or " " for cell in line) + " |" for line in lines)
