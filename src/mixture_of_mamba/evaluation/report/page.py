"""The report's page: results first, then curves, costs, samples and the method."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ...files import write_text
from ..comparison import Comparison
from ..figures import Figures
from .gallery import gallery
from .headline import headline, losses, ratio_cards
from .html import escape
from .method import cost, how_to_read, provenance
from .scores import noise_levels, scores
from .splits import splits

__all__ = ["write_report"]

NAMES = {
    "dense": "dense Mamba",
    "mom": "Mixture-of-Mamba",
    "transformer": "dense transformer",
    "mot": "Mixture-of-Transformers",
}
"""What the title calls the variants."""


def write_report(comparison: Comparison, figures: Figures) -> Path:
    """Write report.html into the comparison's folder.

    Args:
        comparison: its curves.
        figures: its figures.

    Returns:
        The page's path.
    """
    path = comparison.folder / "report.html"
    page = _page(comparison, figures).replace(" %", "\N{NO-BREAK SPACE}%")
    write_text(path, page)
    return path


def _page(comparison: Comparison, figures: Figures) -> str:
    css = (resources.files("mixture_of_mamba.evaluation") / "templates" / "report.css").read_text()
    others = figures.others
    called = [NAMES.get(v, v) for v in others] if len(others) < 4 else [f"{len(others)} variants"]
    title = f"{', '.join(called)} against {NAMES.get(figures.baseline, figures.baseline)}"
    parts = [
        ratio_cards(figures),
        headline(figures),
        losses(comparison, figures),
        splits(figures),
        cost(figures),
        gallery(comparison),
        scores(figures),
        noise_levels(figures),
        how_to_read(figures),
        provenance(figures),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n<p class='lead'>{escape(_lead(figures))}</p>\n"
        f"{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _lead(figures: Figures) -> str:
    base = figures.variants[figures.baseline]
    seeds, planned = len(figures.seeds), len(figures.planned_seeds)
    so_far = f" of {planned}, the others are not finished" if seeds < planned else ""
    return (
        f"{figures.setting}: {', '.join(figures.modalities)} · {figures.steps:,} steps, "
        f"{base.tokens / 1e6:.1f} million tokens a run · "
        f"{seeds} seed{'s' if seeds > 1 else ''}{so_far} · {figures.machine['processor']}"
    )
