"""comparison.json as a table for a terminal, and as Markdown for a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["headline_rows", "interval_text", "markdown_table", "text_table"]

HEADER = ("", "{baseline}", "{variant}", "gain", "FLOPs to match", "time to match")


def interval_text(value: float | None, interval: Sequence[float | None] | None) -> str:
    """0.74 and [0.70, 0.78] -> "0.74 (0.70-0.78)"; None is "not reached" and an open end "…"."""
    if interval is None:
        return "not reached" if value is None else f"{value:.2f}"
    low, high = interval
    if low is None:
        return "not reached"
    ends = f"{low:.2f}–{'…' if high is None else f'{high:.2f}'}"
    return f"{'not always' if value is None else f'{value:.2f}'} ({ends})"


def headline_rows(comparison: Mapping[str, Any], variant: str) -> list[tuple[str, ...]]:
    """Header and one row per modality: losses, gain, relative FLOPs and seconds to match."""
    baseline = comparison["baseline"]
    base, other = (comparison["variants"][v] for v in (baseline, variant))
    rows = [tuple(cell.format(baseline=baseline, variant=variant) for cell in HEADER)]
    for name in comparison["modalities"]:
        rows.append(
            (
                name,
                f"{base['final_loss'][name]:.4f}",
                f"{other['final_loss'][name]:.4f}",
                f"{other['gain_percent'][name]:+.1f} %",
                *(
                    interval_text(other[key][name], other["intervals"][key][name])
                    for key in ("relative_flops_to_match", "relative_seconds_to_match")
                ),
            )
        )
    return rows


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
