"""comparison.json as a table for a terminal, and as Markdown for a README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .facts import QUESTIONS
from .judgements import TASKS

__all__ = [
    "facts_tables",
    "gain_text",
    "headline_rows",
    "markdown_table",
    "match_text",
    "not_judged",
    "percent_text",
    "text_table",
]

TO_MATCH = {
    "relative_flops_to_match": "FLOPs to match",
    "relative_seconds_to_match": "time to match",
}
"""Shares of what the baseline spent; time only where it was measured alone."""


def match_text(
    value: float | None,
    interval: Sequence[float] | None,
    by_seed: Sequence[float | None],
) -> str:
    """0.74 and [0.7, 0.78] -> "74 % (70–78)"; without a value, how many seeds reached it."""
    if value is None:
        reached = sum(seed is not None for seed in by_seed)
        return f"in {reached} of {len(by_seed)} seeds" if reached else "not reached"
    if interval is None:
        return f"{100 * value:.0f} %"
    low, high = interval
    return f"{100 * value:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def percent_text(value: float | None, digits: int = 1) -> str:
    """A signed percentage, without a sign where it rounds to zero; a dash for none."""
    if value is None:
        return "—"
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f} %" if rounded else f"{0:.{digits}f} %"


def gain_text(value: float | None, interval: Sequence[float] | None, digits: int = 1) -> str:
    """2.5 and [1.4, 3.6] -> "+2.5 % (+1.4 to +3.6)"."""
    if value is None or interval is None:
        return percent_text(value, digits)
    low, high = (percent_text(end, digits).removesuffix(" %") for end in interval)
    return f"{percent_text(value, digits)} ({low} to {high})"


def headline_rows(comparison: Mapping[str, Any], variant: str) -> list[tuple[str, ...]]:
    """Header and one row per modality: losses, gain, relative FLOPs to match, and relative seconds
    where they were measured alone."""
    baseline = comparison["baseline"]
    base, other = (comparison["variants"][v] for v in (baseline, variant))
    keys = [key for key in TO_MATCH if key in other]
    rows: list[tuple[str, ...]] = [
        ("", *(TO_MATCH[key] for key in keys), baseline, variant, "gain")
    ]
    for name in comparison["modalities"]:
        spent = (
            match_text(other[k][name], other["intervals"][k][name], other["by_seed"][k][name])
            for k in keys
        )
        losses = (f"{v['final_loss'][name]:.4f}" for v in (base, other))
        gain = gain_text(other["gain_percent"][name], other["intervals"]["gain_percent"][name])
        rows.append((name, *spent, *losses, gain))
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
