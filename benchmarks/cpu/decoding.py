"""One token at a time, and a prompt of 2,048 tokens, against transformers' Mamba."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from mixture_of_mamba import MambaBlock, MambaConfig, Routing
from mixture_of_mamba.layers.fused import block_weights
from mixture_of_mamba.ops.decode_step import FORMATS, DecodeStep

from .block import products
from .timing import Settings, compare

__all__ = ["decode", "prefill"]

WIDTH, LAYERS = 768, 24  # the 130M shape


def _blocks(layers: int) -> list[MambaBlock]:
    config = MambaConfig(d_model=WIDTH, n_modalities=2)
    return [MambaBlock(config).requires_grad_(False) for _ in range(layers)]


def _transformers(layers: int) -> Any:
    from transformers import MambaConfig as Config
    from transformers import MambaModel

    model = MambaModel(
        Config(hidden_size=WIDTH, num_hidden_layers=layers, vocab_size=64, use_mambapy=False)
    )
    return model.eval().requires_grad_(False)


def decode(settings: Settings) -> dict[str, Any]:
    """Milliseconds of a token without embedding and head, which all have alike."""
    layers = 4 if settings.quick else LAYERS
    peer = _transformers(layers)
    ids = torch.zeros(1, 4, dtype=torch.long)
    cache = peer(input_ids=ids, use_cache=True)[1]

    def peer_step() -> object:
        with torch.no_grad():
            # By position (embeddings, cache): its name differs between transformers' versions.
            return peer(ids[:, :1], None, cache, use_cache=True)

    blocks = _blocks(layers)
    weights = [block_weights(block) for block in blocks]
    steps = {form: DecodeStep(weights, eps=1e-5, weights=form) for form in FORMATS}

    def ours(form: str, batch: int) -> Callable[[], object]:
        step, x = steps[form], torch.randn(batch, WIDTH)
        states, modality = step.new_states(batch), torch.zeros(batch, dtype=torch.int32)
        return lambda: step(x, modality, states)

    calls = {"transformers, batch 1": peer_step}
    for form in FORMATS:
        for batch in (1, 8, 64):
            calls[f"{form}, batch {batch}"] = ours(form, batch)
    size = steps["float32"].weight_bytes // 2
    memory = torch.ones(size // 4)
    calls["reading as much memory"] = memory.sum
    # Tokens follow each other: a turn begins with as many as show what stays in the caches.
    times = compare(calls, replace(settings, settle=0.02 if settings.quick else 0.3))
    base = times["transformers, batch 1"].median
    hidden = {form: _hidden(steps[form]) for form in FORMATS}
    exact = hidden["float32"]
    return {
        "layers": layers,
        "width": WIDTH,
        "ms": {k: v.to_dict() for k, v in times.items()},
        "times faster than transformers, batch 1": {
            form: base / times[f"{form}, batch 1"].median for form in FORMATS
        },
        "relative error against float32": {
            form: float((hidden[form] - exact).norm() / exact.norm()) for form in FORMATS[1:]
        },
        "memory GB/s": size / times["reading as much memory"].median / 1e6,
        "weight GB/s, batch 1": {
            form: steps[form].weight_bytes / 2 / times[f"{form}, batch 1"].median / 1e6
            for form in FORMATS
        },
    }


def _hidden(step: DecodeStep) -> torch.Tensor:
    """What 8 tokens make of the residual stream."""
    torch.manual_seed(1)
    states, modality = step.new_states(1), torch.zeros(1, dtype=torch.int32)
    return torch.stack([step(torch.randn(1, WIDTH), modality, states) for _ in range(8)])


def prefill(settings: Settings, peak: float) -> dict[str, Any]:
    """A prompt through two layers of the 130M shape; its products alone at `peak` GFLOP/s."""
    length = 256 if settings.quick else 2048
    peer, blocks = _transformers(2), _blocks(2)
    ids = torch.zeros(1, length, dtype=torch.long)
    routing = Routing.build(torch.randint(2, (1, length)), 2)
    x = torch.randn(length, WIDTH)

    def ours() -> object:
        rows = x
        with torch.no_grad():
            for block in blocks:
                rows = block(rows, routing=routing)
        return rows

    def theirs() -> object:
        with torch.no_grad():
            return peer(input_ids=ids, use_cache=True)

    times = compare({"ours": ours, "transformers": theirs}, settings)
    return {
        "tokens": length,
        "ms": {k: v.to_dict() for k, v in times.items()},
        "products ms": 2 * products(1, length, WIDTH) / 3 / peak / 1e6,
        "times faster": times["transformers"].median / times["ours"].median,
    }
