"""Decoding and prefill beside transformers' Mamba with its cache, on identical weights.

    python -m benchmarks decode --out decode.json

Every variant continues the same tokens from the same prompt, in turn, round after round; a figure
is the median over the rounds with its quartiles. Before anything is timed, the logits of all
variants are compared with transformers'. `--sizes` names width x blocks; 768x24 is the shape of the
130M checkpoint.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.generation.decoders import CachedDecoder, Decoder
from mixture_of_mamba.generation.sequence import TokenSequence
from mixture_of_mamba.generation.stepping import SteppingDecoder, model_step, why_not_native
from mixture_of_mamba.ops.decode_step import FORMATS

from . import records

VOCABULARY = 8192
PROMPT = 16

Step = Callable[[Tensor], Tensor]
"""(b,) tokens -> (b, vocabulary) logits, with the state kept inside."""


def make_models(width: int, layers: int) -> tuple[Any, MultimodalModel, MultimodalModel]:
    """transformers' model, ours with its weights, and a mixture of 3 modalities of that shape."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        initializer_range=0.02,
        tie_word_embeddings=True,
    )
    theirs = MambaForCausalLM(config).eval()
    shape: dict[str, Any] = {"d_model": width, "n_layers": layers, "tie_embeddings": True}
    ours = MultimodalModel(
        ModelConfig(modalities=[Modality("text", "discrete", VOCABULARY)], split="none", **shape)
    ).eval()
    copy_weights(theirs, ours)
    sizes = {"text": VOCABULARY // 2, "image": VOCABULARY // 4, "speech": VOCABULARY // 4}
    mixture = MultimodalModel(
        ModelConfig(modalities=[Modality(n, "discrete", s) for n, s in sizes.items()], **shape)
    ).eval()
    return theirs, ours, mixture


def copy_weights(theirs: Any, ours: MultimodalModel) -> None:
    """Every tensor by its name; both models have the same number of parameters."""
    state = {}
    for name, x in theirs.state_dict().items():
        if name == "lm_head.weight":
            state["head.weight"] = x
            continue
        name = name.replace("embeddings", "embedding").replace("backbone.embedding", "embedding")
        name = name.replace("layers", "blocks").replace("norm_f", "norm")
        stacked = any(part in name for part in ("in_proj", "x_proj", "dt_proj", "out_proj"))
        state[name] = x[None] if stacked else x
    ours.load_state_dict(state)


def theirs_step(model: Any, prompt: Tensor) -> Step:
    with torch.no_grad():
        cache = model(prompt, use_cache=True)[1]

    @torch.no_grad()
    def step(tokens: Tensor) -> Tensor:
        # By position (mask, embeddings, cache): its name differs between transformers' versions.
        return model(tokens[:, None], None, None, cache, use_cache=True).logits[:, -1]

    return step


def ours_step(decoder: Decoder, prompt: Tensor, *, mixed: bool = False) -> Step:
    """With `mixed`, the rows and steps of a batch take turns among the modalities."""
    decoder.start([TokenSequence([0] * len(row), row.tolist()) for row in prompt])
    modality = torch.zeros(len(prompt), dtype=torch.int64)
    if mixed:
        modality = torch.arange(len(prompt)) % len(decoder.model.config.modalities)

    def step(tokens: Tensor) -> Tensor:
        return decoder.step(tokens, modality)

    return step


def decoders(model: MultimodalModel) -> dict[str, Decoder]:
    """The ways to decode on this machine."""
    found: dict[str, Decoder] = {}
    if reason := why_not_native(model):
        print(f"no native decoding: {reason}")
    else:
        for form in FORMATS:
            found[f"native {form}"] = SteppingDecoder(model, model_step(model, form))
    steps = SteppingDecoder(model, model_step(model, backend="torch"))
    return found | {"steps": steps, "model": CachedDecoder(model)}


def seconds(run: Callable[[], Any], least: float) -> float:
    """Mean time of a call, over as many calls as fill `least` seconds."""
    calls, start = 0, time.perf_counter()
    while True:
        run()
        calls += 1
        spent = time.perf_counter() - start
        if spent >= least:
            return spent / calls


def interleave(
    runs: dict[str, Callable[[], Any]], rounds: int, least: float
) -> dict[str, dict[str, float]]:
    """Median and quartiles of the seconds of a call, all variants in every round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run, least))
    result = {}
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"seconds": middle, "quartiles": [low, high]}  # type: ignore[dict-item]
    return result


def benchmark_decode(models: Any, batch: int, rounds: int, least: float) -> dict[str, Any]:
    theirs, ours, mixture = models
    generator = torch.Generator().manual_seed(batch)
    prompt = torch.randint(VOCABULARY // 4, (batch, PROMPT), generator=generator)
    tokens = torch.randint(VOCABULARY // 4, (batch,), generator=generator)
    steps = {"transformers": theirs_step(theirs, prompt)}
    steps |= {name: ours_step(d, prompt) for name, d in decoders(ours).items()}
    wanted = steps["transformers"](tokens)
    errors = {
        name: float((step(tokens) - wanted).abs().max() / wanted.abs().max())
        for name, step in steps.items()
        if name != "transformers"
    }
    for name, decoder in list(decoders(mixture).items())[:1]:  # the way that is taken by itself
        steps[f"mixture, {name}"] = ours_step(decoder, prompt, mixed=True)
    runs = {name: (lambda step=step: step(tokens)) for name, step in steps.items()}
    for run in runs.values():
        run()  # warm
    result = interleave(runs, rounds, least)
    base = result["transformers"]["seconds"]
    for name, row in result.items():
        row |= {"tokens_per_second": batch / row["seconds"], "speedup": base / row["seconds"]}
        if name in errors:
            row["logit_error"] = errors[name]
    return result


def benchmark_prefill(models: Any, length: int, rounds: int) -> dict[str, Any]:
    theirs, ours, mixture = models
    prompt = torch.randint(
        VOCABULARY // 4, (1, length), generator=torch.Generator().manual_seed(length)
    )
    ids = torch.zeros_like(prompt)
    mixed = (torch.arange(length) // 64 % 3)[None]

    @torch.no_grad()
    def reference() -> Tensor:
        return theirs(prompt, use_cache=True, logits_to_keep=1).logits[:, -1]

    runs: dict[str, Callable[[], Tensor]] = {
        "transformers": reference,
        "model": lambda: ours.advance(prompt, ids)[0],
        "mixture, model": lambda: mixture.advance(prompt, mixed)[0],
    }
    wanted = reference()
    error = float((runs["model"]() - wanted).abs().max() / wanted.abs().max())
    runs["mixture, model"]()  # warm, as the others are by now
    result = interleave(runs, rounds, 0.0)
    base = result["transformers"]["seconds"]
    for row in result.values():
        row |= {"tokens_per_second": length / row["seconds"], "speedup": base / row["seconds"]}
    result["model"]["logit_error"] = error
    return result


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks decode", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--sizes", nargs="+", default=["256x12", "768x24"], help="width x blocks")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--prefill", type=int, default=2048, help="tokens of the prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.15, help="seconds per variant and round")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    report: dict[str, Any] = {
        "machine": records.machine("transformers"),
        "sizes": {},
    }
    for size in args.sizes:
        models = make_models(*map(int, size.split("x")))
        print(f"{size}: {sum(p.numel() for p in models[1].parameters()):,} parameters")
        tables = {}
        for batch in args.batches:
            table = benchmark_decode(models, batch, args.rounds, args.least)
            tables[f"decode, batch {batch}"] = table
            show(f"decode, batch {batch}", table)
        if args.prefill:
            table = benchmark_prefill(models, args.prefill, max(2, args.rounds // 2))
            tables[f"prefill, {args.prefill} tokens"] = table
            show(f"prefill, {args.prefill} tokens", table)
        report["sizes"][size] = tables
    if args.out:
        records.write(args.out, report)


def show(title: str, table: dict[str, Any]) -> None:
    print(title)
    for name, row in table.items():
        error = f"  logits {row['logit_error']:.1e}" if "logit_error" in row else ""
        low, high = (1e3 * q for q in row["quartiles"])
        print(
            f"  {name:22}{row['tokens_per_second']:10.1f} tokens/s  x{row['speedup']:5.1f}"
            f"  {1e3 * row['seconds']:9.2f} ms ({low:.2f}..{high:.2f}){error}"
        )
