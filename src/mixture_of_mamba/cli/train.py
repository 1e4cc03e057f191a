"""`mom train`: one run, from a config or from its newest checkpoint."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from .options import add_run_options, run_config

if TYPE_CHECKING:
    from ..interop import Start
    from ..training.config import RunConfig

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train one model. OUT gets config.yaml, metrics.jsonl, tensorboard/, checkpoints/, tokenizers/ "
    "and, at the end, model/ (MultimodalModel.from_pretrained). Ctrl-C stops after the current "
    "step with a checkpoint; --resume continues bit for bit."
)


def configure(parser: ArgumentParser) -> None:
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

    from ..data.build import build
    from ..training.loop import train
    from ..training.runs import has_finished
    from .samples import show_samples

    already = args.resume and has_finished(out, config.train.steps)
    start = _start(config, out)
    result = train(
        config,
        out,
        build=lambda data: build(data, progress=_first()),
        start=None if start is None else partial(start, seed=config.train.seed),
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


def _start(config: RunConfig, out: Path) -> Start | None:
    """What config.model.init_from names, unless the run has weights already."""
    from ..interop import Start
    from ..training.config import model_config
    from ..training.runs import start_of

    if (folder := start_of(out, config)) is None:
        return None
    text = 1 if config.data.tokenizers else config.data.chosen("text_vocabulary")
    sizes = [(n, kind, text if n == "text" else 1) for n, kind in config.data.modalities]
    return Start(folder, model_config(config.model, sizes))


def _first() -> bool:
    """Whether this is the process that speaks; Fabric numbers those that it starts."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _say(line: str) -> None:
    if _first():
        print(line, file=sys.stderr)
