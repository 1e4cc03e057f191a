"""A comparison's folder -> comparison.json, report.html and gallery.png, from the logs of its runs.

Nothing here needs torch, so that a report is made where nothing can be trained.
"""

from __future__ import annotations

from pathlib import Path

from .ablation import is_ablation, write_ablation
from .comparison import load_comparison
from .figures import Figures
from .report import write_gallery, write_report
from .summary import write_comparison

__all__ = ["report_comparison"]


def report_comparison(out: Path) -> tuple[Figures, Path]:
    """Read the logs of a comparison again and write everything that is made from them.

    Returns:
        Its figures, and the path of the report.

    Raises:
        FileNotFoundError, ValueError: see load_comparison.
    """
    comparison = load_comparison(out)
    write_gallery(comparison)
    figures = write_comparison(comparison)
    if is_ablation(figures):
        write_ablation(out, figures)
    return figures, write_report(comparison, figures)
