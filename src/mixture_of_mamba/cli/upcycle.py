"""`mom upcycle`: turn a dense checkpoint into a mixture, or merge a mixture into a dense one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..interop import Upcycled
    from ..models import MultimodalModel

__all__ = ["HELP", "configure", "run"]

HELP = "turn a dense Mamba checkpoint into a mixture, add a modality to a mixture, or merge one"

#: Formats of merged models.
_FORMATS = ("mixture-of-mamba", "state-spaces", "transformers")


def configure(parser: Any) -> None:
    parser.add_argument(
        "dense",
        help="folder of the model: a state-spaces or transformers Mamba checkpoint, a model folder "
        "of this package (dense or a mixture), or a run folder",
    )
    parser.add_argument(
        "--modalities",
        nargs="+",
        default=[],
        help="those of the model first, by name, then the new ones: "
        "text image:discrete:1024 (vocabulary with end token), image:continuous:48 (vector width)",
    )
    parser.add_argument("--out", required=True, help="folder to write the model to")
    parser.add_argument(
        "--split",
        default=None,
        help='projections with one weight per modality: "all", or names joined by "+"; '
        "default: the model's, or all if it is dense",
    )
    parser.add_argument(
        "--expert",
        default=None,
        help="modality whose experts the new ones start from; default: the first",
    )
    parser.add_argument(
        "--freeze",
        nargs="+",
        default=[],
        help='parts that training is to leave unchanged: names of modalities, "shared"; '
        "written to upcycle.json, which mom train reads",
    )
    parser.add_argument("--seed", type=int, default=0, help="of new vocabulary rows and heads")
    parser.add_argument(
        "--merge", action="store_true", help="the other way: average the experts into a dense model"
    )
    parser.add_argument(
        "--format",
        default=_FORMATS[0],
        choices=_FORMATS,
        help="format to write a merged model in; the dense formats take discrete modalities only",
    )


def run(args: Any) -> int:
    """Load a model, upcycle or merge it, save the result and print its size."""
    from ..interop import load_model

    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and is not empty; give a new folder")
    if args.merge and (args.modalities or args.freeze or args.split or args.expert):
        raise ValueError("--merge takes only --out and --format")
    if not args.merge and args.format != _FORMATS[0]:
        raise ValueError(f"--format {args.format} is for --merge; mixtures have one format")
    if not args.merge and not args.modalities:
        raise ValueError("give --modalities, such as: --modalities text image:discrete:1024")
    model = load_model(args.dense)
    if args.merge:
        _merge(model, out, args.format)
    else:
        _upcycle(model, args, out)
    return 0


def _merge(model: MultimodalModel, out: Path, style: str) -> None:
    from ..interop import merge, save_state_spaces, save_transformers
    from ..models import MultimodalModel

    dense = merge(model)
    write = {
        "mixture-of-mamba": MultimodalModel.save_pretrained,
        "state-spaces": save_state_spaces,
        "transformers": save_transformers,
    }[style]
    write(dense, out)
    before, after = model.parameter_count(), dense.parameter_count()
    print(f"merged {len(model.config.modalities)} modalities: {before:,} -> {after:,} parameters")
    print(f"wrote {out} ({style})")


def _upcycle(model: MultimodalModel, args: Any, out: Path) -> None:
    from ..interop import upcycle
    from ..interop.tokenizer import copy_tokenizer

    result = upcycle(model, args.modalities, split=args.split, expert=args.expert, seed=args.seed)
    result = replace(result, frozen=tuple(args.freeze))
    count = _frozen_parameters(result) if args.freeze else 0  # wrong names fail before writing
    result.save(out)
    text = next(m.name for m in model.config.modalities if m.discrete)
    copied = copy_tokenizer(Path(args.dense), out, size=result.kept[text], markers=result.markers)
    config = result.model.config
    before, after = model.parameter_count(), result.model.parameter_count()
    print(f"parameters: {before:,} -> {after:,}, split {'+'.join(sorted(config.split))}")
    for modality, (low, high) in zip(config.modalities, config.vocabulary_ranges, strict=True):
        where = f"tokens {low}..{high - 1}" if modality.discrete else f"width {modality.size}"
        print(f"  {modality.name}: {modality.kind}, {where}")
    if result.markers:
        print("appended to text: " + ", ".join(f"{k} = {v}" for k, v in result.markers.items()))
    if result.frozen:
        print(f"frozen in training: {', '.join(result.frozen)} ({count:,} parameters)")
    print(f"wrote {out}" + (", with its tokenizer" if copied else ""))


def _frozen_parameters(result: Upcycled) -> int:
    """How many parameters --freeze keeps as they are."""
    frozen = result.freeze()
    count = frozen.parameter_count()
    frozen.release()
    return count
