"""`mom demo`: compare dense Mamba with Mixture-of-Mamba on the embedded data, in ten minutes."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from ..training.config import RunConfig
from ..training.runs import read_yaml
from .compare import command_line, print_figures
from .options import Parser, preset_path

__all__ = ["HELP", "configure", "demo_config", "run"]

HELP = (
    "Prepare real text, image and speech tokens, train dense Mamba and Mixture-of-Mamba on them "
    "with two seeds each, and show per modality how many FLOPs the mixture saves. Ten minutes on "
    "two cores. The same command again continues a stopped demo."
)
#: The baseline, then the mixture.
VARIANTS = ("dense", "mom")
#: Share of the preset's steps where there are no compiled kernels: a step takes several times as
#: long.
SHARE_WITHOUT_KERNELS = 0.25


def configure(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="runs/demo", help="folder of the comparison")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1], help="one run per variant and seed"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument(
        "--steps", type=int, default=None, help="steps of every run; by default the preset's"
    )


def run(args: Namespace) -> int:
    """Run the comparison, print its table and the path of the report."""
    from ..evaluation.experiment import run_experiment
    from ..evaluation.plan import Plan
    from ..ops import native

    config, remark = demo_config(args.steps, native.why_not())
    if remark:
        print(remark, file=sys.stderr)
    plan = Plan(
        config=config,
        variants=VARIANTS,
        baseline=VARIANTS[0],
        seeds=tuple(args.seeds),
        command=command_line(),
    )
    figures, page = run_experiment(plan, Path(args.out), jobs=args.jobs)
    print_figures(figures, page)
    if remark:
        print(remark)
    return 0


def demo_config(steps: int | None, slow: str | None) -> tuple[RunConfig, str]:
    """The demo's config, and a remark where it is shorter than the preset.

    Args:
        steps: what the user asked for, or None.
        slow: why the compiled kernels are missing, or None where they are active.
    """
    path = preset_path("demo")
    config = RunConfig.from_dict(read_yaml(path), str(path))
    full = config.train.steps
    if steps is None and slow is not None:
        steps = round(full * SHARE_WITHOUT_KERNELS)
    if steps is None or steps == full:
        return config, ""
    warmup = min(config.train.warmup, max(1, steps // 10))
    train = replace(config.train, steps=steps, warmup=warmup, checkpoint_every=steps)
    why = f" because the C++ kernels are not active ({slow})" if slow is not None else ""
    remark = (
        f"a shorter schedule: {steps} of {full} steps{why}; "
        "the gaps between the variants are smaller than after the whole one"
    )
    return replace(config, train=train), remark if steps < full else ""
