"""Cost of one image against the length of its context.

    python -m benchmarks images --out benchmarks/results/image_sampling.json

An image is sampled from the state at its begin token: the context is read once (prefill, linear in
its length), and every denoising step runs only the image's own vectors. So the time of an image is
the same after 256 tokens and after 16k. Beside it stands what recomputing the whole sequence at
every step costs (the way of a model without state), measured on one step and multiplied by the
steps; guidance's second, short read is left out of that.

Interleaved: every round visits all lengths in a new order; medians and quartiles over rounds.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

import torch

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation.diffusion import DiffusionOptions, denoise, empty_context
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.ops import Routing

from . import records

LENGTHS = (256, 1024, 4096, 16_384)
PATCHES, DIM, BEGIN = 64, 48, 1


def build(width: int, layers: int) -> MultimodalModel:
    """An untrained mixture; its weights do not change what it costs."""
    config = ModelConfig(
        d_model=width,
        n_layers=layers,
        modalities=[Modality("text", "discrete", 1024), Modality("image", "continuous", DIM)],
        diffusion={"prediction": "sample"},
    )
    return MultimodalModel(config).eval()


@torch.no_grad()
def time_image(
    model: MultimodalModel, state: ModelState, empty: ModelState, options: DiffusionOptions
) -> float:
    """Seconds for one image, from the snapshot to the state after its clean patches."""
    began = time.perf_counter()
    denoise(model, "image", state, PATCHES, options, [0], unconditional=empty)
    return time.perf_counter() - began


@torch.no_grad()
def time_recomputed_step(model: MultimodalModel, length: int) -> float:
    """Seconds for one denoising step that reads the whole sequence again."""
    ids = torch.tensor([[0] * length + [1] * PATCHES])
    routing = Routing.build(ids, 2)
    tokens, place = torch.randint(1024, (length,)), torch.arange(PATCHES)
    values, level = torch.randn(PATCHES, DIM), torch.full((PATCHES,), 500)
    began = time.perf_counter()
    rows = model.diffusion["image"].embed(values, level, place)
    hidden, _ = model.backbone(torch.cat([model.embedding(tokens), rows]), routing)
    model.diffusion["image"].predict(hidden[length:])
    return time.perf_counter() - began


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict:
    """All rounds; seconds by length."""
    model = build(arguments.width, arguments.layers)
    options = DiffusionOptions(steps=arguments.steps, guidance=arguments.guidance)
    empty = empty_context(model, BEGIN)
    states, prefill = {}, {}
    for length in LENGTHS:
        tokens = torch.randint(1024, (1, length))
        began = time.perf_counter()
        states[length] = model.advance(tokens, torch.zeros_like(tokens))[1]
        prefill[length] = time.perf_counter() - began
    images: dict[int, list[float]] = {n: [] for n in LENGTHS}
    again: dict[int, list[float]] = {n: [] for n in LENGTHS}
    time_image(model, states[LENGTHS[0]], empty, options)  # warm
    for _ in range(arguments.rounds):
        for length in random.sample(LENGTHS, len(LENGTHS)):
            images[length].append(time_image(model, states[length], empty, options))
            again[length].append(time_recomputed_step(model, length))
    return {
        "machine": records.machine(),
        "width": arguments.width,
        "layers": arguments.layers,
        "patches": PATCHES,
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "rounds": arguments.rounds,
        "lengths": {
            str(n): {
                "image": spread(images[n]),
                "prefill": prefill[n],
                "recomputed_image": statistics.median(again[n]) * arguments.steps,
                "state_bytes": states[n].nbytes,
            }
            for n in LENGTHS
        },
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return {"median": middle, "low": low, "high": high}


def table(result: dict) -> str:
    """A Markdown table of the result."""
    lines = [
        "| context, tokens | one image, s (quartiles) | against 256 | recomputing all, s |",
        "|---:|---:|---:|---:|",
    ]
    first = result["lengths"][str(LENGTHS[0])]["image"]["median"]
    for length, row in result["lengths"].items():
        image = row["image"]
        lines.append(
            f"| {int(length):,} | {image['median']:.3f} ({image['low']:.3f}-{image['high']:.3f}) "
            f"| {image['median'] / first:.2f}x | {row['recomputed_image']:.2f} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks images", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--width", type=int, default=256, help="d_model")
    parser.add_argument("--layers", type=int, default=8, help="blocks")
    parser.add_argument("--steps", type=int, default=50, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=2.0, help="1 for none")
    parser.add_argument("--rounds", type=int, default=9, help="at least 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    random.seed(0)
    result = measure(arguments)
    if arguments.out is not None:
        records.write(arguments.out, result)
    print(table(result))
