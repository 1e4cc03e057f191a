"""`mom ablate`: all 16 sets of split projections on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .compare import add_comparison_options, command_line
from .options import Parser, add_run_options, run_config

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train all 16 sets of split projections on the same batches; gains of each, and the sum of the "
    "single gains against the joint gain. The same command again continues where it stopped."
)


def configure(parser: Parser) -> None:
    add_comparison_options(parser, seeds=[0], samples=0)
    add_run_options(parser)


def run(args: Any) -> int:
    from ..evaluation.ablation import ablation_rows, seeds_statement, synergy_rows
    from ..evaluation.experiment import run_experiment
    from ..evaluation.plan import Plan
    from ..evaluation.tables import text_table
    from ..evaluation.variants import all_splits

    plan = Plan(
        config=run_config(args),
        variants=tuple(all_splits()),
        baseline="dense",
        seeds=tuple(args.seeds),
        command=command_line(),
        smoothing=args.smoothing,
    )
    out = Path(args.out)
    figures, page = run_experiment(
        plan, out, jobs=args.jobs, samples=args.samples, judged=args.judged
    )
    print(f"\n{text_table(synergy_rows(figures))}\n\n{seeds_statement(figures)}")
    print(f"\n{text_table(ablation_rows(figures))}\n")
    print(f"{figures.smoothing_statement}\nMarkdown: {out / 'ablation.md'}\nreport: {page}")
    return 0
