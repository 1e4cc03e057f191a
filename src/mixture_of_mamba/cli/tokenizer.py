"""`mom tokenizer`: train the tokenizers of a data config, or say what a folder of them holds."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ActionConfigFile, Namespace

from ..data.config import DataConfig
from .options import Parser

__all__ = ["HELP", "configure", "run"]

HELP = (
    "Train the tokenizers of a data config (text, images, speech; by default a KL autoencoder of "
    "the embedded images) and write them to a folder that runs reuse with --data.tokenizers. "
    "`inspect` describes such a folder, or the tokenizers/ of a run."
)


def configure(parser: Parser) -> None:
    """Add the action, the folder and the fields of the data."""
    parser.add_argument("action", choices=["train", "inspect"], help="what to do")
    parser.add_argument("folder", nargs="?", default=None, help="of the tokenizers to inspect")
    parser.add_argument("--out", type=str, default=None, help="folder that the tokenizers go to")
    parser.ignored = ("model", "train")
    parser.add_argument(
        "-c",
        "--config",
        action=ActionConfigFile,
        help="a YAML file, or a preset by name, of which the data: fields count; flags override it",
    )
    parser.add_class_arguments(DataConfig, "data")
    parser.set_defaults({"data.setting": "transfusion", "data.latents": "autoencoder"})


def run(args: Namespace) -> int:
    """Train or inspect."""
    if args.action == "inspect":
        if args.folder is None:
            raise ValueError("which folder? give: mom tokenizer inspect FOLDER")
        return inspect(Path(args.folder))
    out = args.out or args.folder
    if out is None:
        raise ValueError("where to? give: mom tokenizer train --out FOLDER")
    plain = args.as_dict()["data"]
    return train(DataConfig(**{f.name: plain[f.name] for f in fields(DataConfig)}), Path(out))


def train(config: DataConfig, out: Path) -> int:
    """Build the data (its cache keeps what runs will ask for) and write its tokenizers."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already and not empty; give another folder")
    from ..data.build import build

    bundle = build(config)
    bundle.tokenizers.save(out)
    images = [e.items["image"] for e in bundle.validation_examples if "image" in e.items]
    tokenizer = bundle.tokenizers.non_text.get("image")
    if tokenizer is not None and images:
        error = reconstruction_error(tokenizer, np.stack(images))
        print(
            f"image: mean squared error {error:.5f} of pixels in 0..1 over {len(images)} held-out "
            f"pictures ({-10 * np.log10(max(error, 1e-12)):.1f} dB)",
            file=sys.stderr,
        )
    inspect(out)
    print(f"reuse with: --data.tokenizers {out}", file=sys.stderr)
    return 0


def reconstruction_error(tokenizer: Any, images: np.ndarray) -> float:
    """Mean squared error of (n, s, s, 3) uint8 pictures after encoding and decoding, in 0..1."""
    again = np.stack(list(tokenizer.decode(tokenizer.encode(images))))
    return float(np.mean((again / 255.0 - images / 255.0) ** 2))


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
