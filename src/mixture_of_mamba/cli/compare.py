"""`mom compare`: variants x seeds on the same batches, and what each needs to match."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Parser, add_run_options, run_config

if TYPE_CHECKING:
    from ..data.digits.proportions import Proportion
    from ..evaluation.figures import Figures

__all__ = ["HELP", "add_comparison_options", "command_line", "configure", "print_figures", "run"]

HELP = (
    "Train variants on the same batches and report, per modality, the FLOPs that each needs to "
    "reach the baseline's final loss. The same command again continues where it stopped."
)


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["dense", "mom"],
        help="dense, mom (all projections split), a set of projections such as in_proj+out_proj, "
        "transformer, mot (Mixture-of-Transformers)",
    )
    parser.add_argument(
        "--baseline",
        type=str,
        default=None,
        help="the variant that the others are compared with; by default the first",
    )
    add_comparison_options(parser, seeds=[0, 1, 2], samples=6)
    add_run_options(parser)


def add_comparison_options(parser: Parser, *, seeds: list[int], samples: int) -> None:
    """What comparisons and ablations have in common."""
    parser.add_argument("--out", type=str, required=True, help="folder of the comparison")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=seeds, help="one run per variant and seed"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=None,
        help="runs at a time, one thread each; by default one per core, or one on a GPU",
    )
    parser.add_argument(
        "--smoothing", type=int, default=5, help="evaluations that a loss is smoothed over; 1: none"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=samples,
        help="samples of each kind that the first seed's runs generate for the report; 0: none",
    )
    parser.add_argument(
        "--judged",
        type=int,
        default=64 if samples else 0,
        help="validation captions whose facts are looked for in what is generated; 0: none",
    )


def run(args: Any) -> int:
    from ..evaluation.experiment import run_experiment
    from ..evaluation.plan import Plan

    plan = Plan(
        config=run_config(args),
        variants=tuple(args.variants),
        baseline=args.baseline or args.variants[0],
        seeds=tuple(args.seeds),
        command=command_line(),
        smoothing=args.smoothing,
    )
    figures, page = run_experiment(
        plan, Path(args.out), jobs=args.jobs, samples=args.samples, judged=args.judged
    )
    print_figures(figures, page)
    return 0


def command_line() -> str:
    """The command as the user typed it, for the report."""
    return shlex.join(["mom", *sys.argv[1:]])


def print_figures(figures: Figures, page: Path) -> None:
    """The table of each variant, what is right in what was generated, how losses were smoothed, and
    where the report lies."""
    from ..evaluation.tables import headline_rows, not_scored, scores_tables, text_table

    print()
    for variant in figures.others:
        print(text_table(headline_rows(figures, variant)), end="\n\n")
    for title, rows in scores_tables(figures, _counted):
        print(f"{title}: right of all, 95 % interval\n{text_table(rows)}", end="\n\n")
    for line in not_scored(figures):
        print(f"not judged: {line}")
    seeds = len(figures.seeds)
    print(f"{seeds} seed{'s' if seeds > 1 else ''}; {figures.smoothing_statement}")
    print(f"report: {page}")
    if (pictures := page.with_name("gallery.png")).is_file():
        print(f"pictures: {pictures}")


def _counted(share: Proportion) -> str:
    """118 of 127 with their interval -> "118/127 (87–96 %)"."""
    return f"{share.correct:.0f}/{share.total:.0f} ({100 * share.low:.0f}–{100 * share.high:.0f} %)"
