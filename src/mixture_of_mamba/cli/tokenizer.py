"""`mom tokenizer`: train the tokenizers of a data config, or say what a folder of them holds."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_text
from ..training.config import RunConfig
from ..training.runs import read_config
from .options import Parser, add_run_options, run_config

if TYPE_CHECKING:
    from ..data.items import LabelledItem
    from ..modalities import Codec
    from ..modalities.tokenizer_set import TokenizerSet

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train the tokenizers of a config's modalities (by default text and a KL autoencoder of "
    "the embedded images) and write them to a folder that runs reuse with --data.tokenizers. "
    "`inspect` describes such a folder, or the tokenizers/ of a run. `check` encodes and decodes "
    "files (without files: a run's held-out examples), says how far what comes back is from what "
    "went in, and writes a page with both."
)


def configure(parser: Parser) -> None:
    """Add the action, the folder and the fields of the data."""
    parser.add_argument("action", choices=["train", "inspect", "check"], help="what to do")
    parser.add_argument(
        "folder", nargs="?", default=None, help="of the tokenizers, or a run, to inspect or check"
    )
    parser.add_argument(
        "files", nargs="*", default=[], help="to check with: files, folders, .jsonl or .parquet"
    )
    parser.add_argument(
        "--out",
        type=str,
        default=None,
        help="train: folder that the tokenizers go to; check: the page to write, check.html by "
        "default, with the figures beside it in .json",
    )
    parser.add_argument(
        "--count", type=int, default=64, help="check: most items of each modality; default 64"
    )
    base = {"text": {"codec": "bpe"}, "image": {"codec": "autoencoder"}}
    add_run_options(parser, ("modalities", "data"), base)


def run(args: Namespace) -> int:
    """Train, inspect or check."""
    if args.action == "inspect":
        if args.folder is None:
            raise ValueError("which folder? give: mom tokenizer inspect FOLDER")
        return inspect(Path(args.folder))
    if args.action == "check":
        if args.folder is None:
            raise ValueError("which folder? give: mom tokenizer check FOLDER [FILES]")
        if args.count < 1:
            raise ValueError(f"--count is {args.count}; give at least 1")
        out = Path(args.out or "check.html")
        return check(Path(args.folder), [Path(f) for f in args.files], out, args.count)
    out = args.out or args.folder
    if out is None:
        raise ValueError("where to? give: mom tokenizer train --out FOLDER")
    return train(run_config(args), Path(out))


def train(config: RunConfig, out: Path) -> int:
    """Build the data (its cache keeps what runs will ask for) and write its tokenizers."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not empty; give another folder")
    from ..data.build import build
    from ..modalities.image.files import IMAGE

    bundle = build(config.data, config.modalities)
    bundle.tokenizers.save(out)
    for name, codec in bundle.tokenizers.non_text.items():
        images = [e.items[name] for e in bundle.validation_examples if name in e.items]
        if codec.media is not IMAGE or not images:
            continue
        if codec.cannot_decode is not None:
            print(f"{name}: encoded only; {codec.cannot_decode}", file=sys.stderr)
            continue
        error = reconstruction_error(codec, images)
        print(
            f"{name}: mean squared error {error:.5f} of pixels in 0..1 over {len(images)} held-out "
            f"pictures ({-10 * np.log10(max(error, 1e-12)):.1f} dB)",
            file=sys.stderr,
        )
    inspect(out)
    print(f"reuse with: --data.tokenizers {out}", file=sys.stderr)
    return 0


def reconstruction_error(codec: Codec, images: Sequence[np.ndarray]) -> float:
    """Mean squared error of (s, s, 3) uint8 pictures after encoding and decoding, in 0..1."""
    prepared = [codec.prepare(image, codec.options) for image in images]
    again = np.stack(codec.decode(codec.encode(prepared)))
    return float(np.mean((again / 255.0 - np.stack(images) / 255.0) ** 2))


def inspect(folder: Path) -> int:
    """Print one line per modality."""
    tokenizers = _tokenizers(folder)
    for name, kind, size in tokenizers.modalities:
        length = tokenizers.fixed_length.get(name)
        what = f"vocabulary {size:,}" if kind == "discrete" else f"vectors of {size}"
        codec = tokenizers.codec(name).codec
        print(f"{name}: {kind}, {what}" + (f", {length} an item" if length else "") + f", {codec}")
    return 0


def check(folder: Path, files: Sequence[Path], out: Path, most: int) -> int:
    """Encode and decode items of files, or of a run's data; print the figures and write a page.

    Args:
        folder: of tokenizers, or of a run.
        files: what the items are read from; none: the held-out examples of the run's data.
        out: the page; the figures stand beside it as .json.
        most: items of a modality.
    """
    from ..data.items import items_of_files
    from ..evaluation.codec_check import check_codec
    from ..evaluation.report.reconstructions import check_rows, write_reconstructions
    from ..evaluation.tables import text_table

    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out} names no page; end it in .html")
    tokenizers = _tokenizers(folder)
    media = {name: tokenizers.codec(name).media for name in tokenizers.names}
    items: dict[str, list[LabelledItem]]
    if files:
        items = items_of_files(files, media, most=most)
    else:
        items = _held_out(folder, tokenizers.names, most)
    checks = [check_codec(tokenizers, name, [i.item for i in items[name]]) for name in items]
    for made in checks:
        print(f"{made.name}: {made.codec}, {made.items} items")
        print(text_table([("figure", "value"), *check_rows(made)]))
        if made.one_way:
            print(f"not decoded: {made.one_way}")
        print()
    write_reconstructions(out, f"Tokenizers of {folder}", checks, items, media)
    figures = {made.name: made.to_json() for made in checks}
    write_text(out.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
    print(f"wrote {out} and {out.with_suffix('.json')}", file=sys.stderr)
    return 0


def _held_out(folder: Path, names: Sequence[str], most: int) -> dict[str, list[LabelledItem]]:
    """The first held-out examples of a run's data, by modality."""
    from ..data.build import build
    from ..data.items import LabelledItem

    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"{folder} is no run, whose data would be taken; give files: mom tokenizer check "
            f"{folder} FILES"
        )
    config = read_config(folder)
    bundle = build(config.data, config.modalities, own=folder / "tokenizers")
    examples = bundle.validation_examples
    found = {
        name: [
            LabelledItem(f"held-out document {i}", example.items[name])
            for i, example in enumerate(examples)
            if name in example.items
        ][:most]
        for name in names
    }
    return {name: items for name, items in found.items() if items}


def _tokenizers(folder: Path) -> TokenizerSet:
    """Those of a folder, or of a run."""
    from ..modalities.tokenizer_set import TokenizerSet

    if not (folder / "tokenizers.json").exists() and (folder / "tokenizers").is_dir():
        folder = folder / "tokenizers"
    return TokenizerSet.load(folder)
