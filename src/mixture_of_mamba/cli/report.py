"""`mom report`: rebuild comparison.json and report.html from the logs of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .compare import print_figures
from .parser import Parser

__all__ = ["HELP", "configure", "run"]

HELP = "Rebuild comparison.json and report.html from the logs of a comparison's runs."


def configure(parser: Parser) -> None:
    parser.add_argument("folder", type=str, help="--out of mom compare, mom ablate or mom demo")


def run(args: Any) -> int:
    from ..evaluation.rebuild import report_comparison

    figures, page = report_comparison(Path(args.folder))
    print_figures(figures, page)
    return 0
