"""`mom train`: one run, from a config or from its newest checkpoint."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from .options import Parser, add_run_options, run_config

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train one model. OUT gets config.yaml, metrics.jsonl, tensorboard/, checkpoints/, tokenizers/ "
    "and, at the end, model/ (MultimodalModel.from_pretrained). Ctrl-C stops after the current "
    "step with a checkpoint; --resume continues bit for bit."
)


def configure(parser: Parser) -> None:
    """Add the fields of a run, --out and --resume."""
    parser.add_argument("--out", type=str, required=True, help="folder of the run")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in OUT from its newest checkpoint; without -c its own config counts",
    )
    add_run_options(parser)


def run(args: Namespace) -> int:
    """Train; 0 also where the run stopped early with a checkpoint because it was told to."""
    config, out = run_config(args), Path(args.out)

    from ..training.loop import train
    from ..training.runs import has_finished
    from .samples import show_samples

    already = args.resume and has_finished(out, config.train.steps)
    result = train(
        config,
        out,
        resume=args.resume,
        on_evaluation=show_samples(config.train.samples) if config.train.samples else None,
    )
    if already:
        _say(
            f"{out} was finished at step {result.step} before: {out / 'model'}; to train on, give "
            "a larger --train.steps"
        )
        return 0
    if result.finished:
        _say(f"{out} is finished at step {result.step}: {out / 'model'}")
        return 0
    _say(
        f"{out} stopped at step {result.step} of {config.train.steps} with a checkpoint; "
        f"continue with: mom train --out {out} --resume"
    )
    return 0 if result.step == config.train.stop_after else 130


def _say(line: str) -> None:
    from ..training.distributed import is_first_process

    if is_first_process():
        print(line, file=sys.stderr)
