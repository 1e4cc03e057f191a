"""The report's page: results first, then curves, costs, samples and the method."""

from __future__ import annotations

from pathlib import Path

from ...files import write_text
from ..comparison import Comparison
from ..figures import Figures
from .gallery import gallery
from .headline import headline, losses, ratio_cards
from .html import page
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
    write_text(path, _page(comparison, figures))
    return path


def _page(comparison: Comparison, figures: Figures) -> str:
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
    return page(title, _lead(figures), parts)


def _lead(figures: Figures) -> str:
    base = figures.variants[figures.baseline]
    seeds, planned = len(figures.seeds), len(figures.planned_seeds)
    so_far = f" of {planned}, the others are not finished" if seeds < planned else ""
    return (
        f"{figures.setting}: {', '.join(figures.modalities)} · {figures.steps:,} steps, "
        f"{base.tokens / 1e6:.1f} million tokens a run · "
        f"{seeds} seed{'s' if seeds > 1 else ''}{so_far} · {figures.machine['processor']}"
    )
