"""comparison.json as a table for a terminal, and as Markdown for a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .facts import QUESTIONS
from .judgements import TASKS

__all__ = [
    "facts_tables",
    "headline_rows",
    "interval_text",
    "markdown_table",
    "not_judged",
    "percent_text",
    "text_table",
]

HEADER = ("", "FLOPs to match", "time to match", "{baseline}", "{variant}", "gain")
"""The first two are shares of what the baseline spent."""


def interval_text(value: float | None, interval: Sequence[float | None] | None) -> str:
    """0.74 and [0.7, 0.78] -> "74 % (70–78)"; None is "not reached" and an open end "…"."""
    if interval is None:
        return "not reached" if value is None else f"{100 * value:.0f} %"
    low, high = interval
    if low is None:
        return "not reached"
    ends = f"{100 * low:.0f}–{'…' if high is None else f'{100 * high:.0f}'}"
    return f"{'not always' if value is None else f'{100 * value:.0f} %'} ({ends})"


def percent_text(value: float, digits: int = 1) -> str:
    """A signed percentage, without a sign where it rounds to zero."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f} %" if rounded else f"{0:.{digits}f} %"


def headline_rows(comparison: Mapping[str, Any], variant: str) -> list[tuple[str, ...]]:
    """Header and one row per modality: losses, gain, relative FLOPs and seconds to match."""
    baseline = comparison["baseline"]
    base, other = (comparison["variants"][v] for v in (baseline, variant))
    rows = [tuple(cell.format(baseline=baseline, variant=variant) for cell in HEADER)]
    for name in comparison["modalities"]:
        spent = (
            interval_text(other[key][name], other["intervals"][key][name])
            for key in ("relative_flops_to_match", "relative_seconds_to_match")
        )
        losses = (f"{v['final_loss'][name]:.4f}" for v in (base, other))
        rows.append((name, *spent, *losses, percent_text(other["gain_percent"][name])))
    return rows


def facts_tables(
    comparison: Mapping[str, Any], cell: Callable[[Mapping[str, float]], str]
) -> list[tuple[str, list[tuple[str, ...]]]]:
    """What is right in what was generated: (task, header and a row per run) of every task that was
    judged; where pictures are judged, the real ones stand last.

    Args:
        cell: the text of a share; see facts.json.
    """

    def cells(answers: Mapping[str, Any]) -> list[str]:
        return [cell(answers[q]) if q in answers else "" for q in QUESTIONS]

    facts, tables = comparison["facts"], []
    for task, title in TASKS.items():
        rows: list[tuple[str, ...]] = [("", "seed", *QUESTIONS)]
        for variant, seeds in facts["runs"].items():
            for seed, judged in seeds.items():
                if task in judged:
                    rows.append((variant, seed, *cells(judged[task])))
        if len(rows) == 1:
            continue
        if task == "text_to_image" and facts["ceiling"] is not None:
            rows.append(("the real pictures", "", *cells(facts["ceiling"])))
        tables.append((title, rows))
    return tables


def not_judged(comparison: Mapping[str, Any]) -> list[str]:
    """One line for each reason why variants were not judged: "transformer, mot: reason"."""
    by_reason: dict[str, list[str]] = {}
    for variant, reason in comparison["facts"]["not_judged"].items():
        by_reason.setdefault(reason, []).append(variant)
    return [f"{', '.join(variants)}: {reason}" for reason, variants in by_reason.items()]


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
