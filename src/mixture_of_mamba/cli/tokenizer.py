"""`mom tokenizer`: train the tokenizers of a data config, or say what a folder of them holds."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..training.config import RunConfig
from .options import Parser, add_run_options, run_config

if TYPE_CHECKING:
    from ..modalities import Codec

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train the tokenizers of a config's modalities (by default text and a KL autoencoder of "
    "the embedded images) and write them to a folder that runs reuse with --data.tokenizers. "
    "`inspect` describes such a folder, or the tokenizers/ of a run."
)


def configure(parser: Parser) -> None:
    """Add the action, the folder and the fields of the data."""
    parser.add_argument("action", choices=["train", "inspect"], help="what to do")
    parser.add_argument("folder", nargs="?", default=None, help="of the tokenizers to inspect")
    parser.add_argument("--out", type=str, default=None, help="folder that the tokenizers go to")
    base = {"text": {"codec": "bpe"}, "image": {"codec": "autoencoder"}}
    add_run_options(parser, ("modalities", "data"), base)


def run(args: Namespace) -> int:
    """Train or inspect."""
    if args.action == "inspect":
        if args.folder is None:
            raise ValueError("which folder? give: mom tokenizer inspect FOLDER")
        return inspect(Path(args.folder))
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
    from ..modalities.tokenizer_set import TokenizerSet

    if not (folder / "tokenizers.json").exists() and (folder / "tokenizers").is_dir():
        folder = folder / "tokenizers"
    tokenizers = TokenizerSet.load(folder)
    for name, kind, size in tokenizers.modalities:
        length = tokenizers.fixed_length.get(name)
        what = f"vocabulary {size:,}" if kind == "discrete" else f"vectors of {size}"
        codec = tokenizers.codec(name).codec
        print(f"{name}: {kind}, {what}" + (f", {length} an item" if length else "") + f", {codec}")
    return 0
