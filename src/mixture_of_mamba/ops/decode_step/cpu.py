"""Backend "cpu": a whole step in one native call (csrc/decode.cpp)."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..mamba_block import Weights
from ..native_buffers import put
from ..selective_scan.cpu import DTYPES, MOST_STATES
from .call import DecodeCall, DecodeLayer, Packed, pack, pack_in_arena
from .inputs import FORMATS, StepInputs
from .pace import Pace

__all__ = ["new_states", "prepare", "step", "why_not"]

#: Multiply-adds of a step for each thread, below which several are never worth it.
PRODUCTS = 1 << 17


def why_not(inputs: StepInputs) -> str | None:
    if inputs.device_type != "cpu":
        return f"the weights are on {inputs.device_type}"
    if inputs.blocks[0].in_weight.dtype not in DTYPES:
        return f"the weights are {inputs.dtype_name}; float32 and bfloat16 are served"
    if inputs.n > MOST_STATES:
        return f"it serves up to {MOST_STATES} states, not {inputs.n}"
    return native.why_not()


class Prepared:
    """Packed weights in the records of the native call, and the threads that steps have taken."""

    def __init__(self, inputs: StepInputs) -> None:
        blocks, self.eps = inputs.blocks, inputs.eps
        self.format = inputs.format or inputs.dtype_name
        (self.d, self.n), self.k = blocks[0].A_log.shape, blocks[0].conv_weight.shape[1]
        self.d_model, self.modalities = inputs.d_model, inputs.modalities
        self.rank = blocks[0].dt_weight.shape[2]
        self._kept: list[Tensor] = []
        packed = [p for w in blocks for p in self._projections(w)]
        if inputs.head is not None:
            packed.append(pack(inputs.head[None], None, self.format))
        places = pack_in_arena([p.weight for p in packed])
        self.packed = [p._replace(weight=x) for p, x in zip(packed, places, strict=True)]
        self.head = None if inputs.head is None else self.packed[-1]
        layers = [self._layer(w, self.packed[4 * i :][:4]) for i, w in enumerate(blocks)]
        self.layers = (DecodeLayer * len(blocks))(*layers)
        norm = inputs.final_norm
        self.final_norm = None if norm is None else self._keep_alive(norm.float())
        self._products = sum(p.weight[0].numel() for p in self.packed)  # of a sequence's step
        self._paces: dict[tuple[int, int], Pace] = {}

    @property
    def weight_bytes(self) -> int:
        return sum(p.nbytes for p in self.packed)

    def most_threads(self, batch: int) -> int:
        """Most threads of a step of so many sequences; one for a tiny model."""
        return min(torch.get_num_threads(), max(1, batch * self._products // PRODUCTS))

    def pace(self, batch: int) -> Pace:
        """The times of the steps of so many sequences."""
        key = (batch, self.most_threads(batch))
        return self._paces.setdefault(key, Pace(key[1]))

    def with_states(
        self, states: Sequence[tuple[Tensor, Tensor]], batch: int
    ) -> ctypes.Array[DecodeLayer]:
        """The layers' records with the states' places: of one call, since other threads may call
        with states of theirs."""
        layers = type(self.layers).from_buffer_copy(self.layers)
        for layer, (conv, ssm) in zip(layers, states, strict=True):
            put(layer, "conv", conv, torch.float32, batch, self.k - 1, self.d)
            put(layer, "ssm", ssm, torch.float32, batch, self.d, self.n)
        return layers

    def _projections(self, w: Weights) -> list[Packed]:
        """In the order of DecodeLayer."""
        # Weight and bias of dt_proj may be split differently; give both all experts.
        experts = max(w.dt_weight.shape[0], w.dt_bias.shape[0])
        pairs = (
            (w.in_weight, w.in_bias),
            (w.x_weight, None),
            (w.dt_weight.expand(experts, -1, -1), w.dt_bias.expand(experts, -1)),
            (w.out_weight, w.out_bias),
        )
        return [pack(weight, bias, self.format) for weight, bias in pairs]

    def _layer(self, w: Weights, packed: Sequence[Packed]) -> DecodeLayer:
        names = ("in_proj", "x_proj", "dt_proj", "out_proj")
        layer = DecodeLayer(**{name: p.matrix() for name, p in zip(names, packed, strict=True)})
        bias = None if w.conv_bias is None else self._keep_alive(w.conv_bias.float())
        decay = self._keep_alive(-torch.exp(w.A_log.float()) / math.log(2))
        taps = self._keep_alive(w.conv_weight.float().t())
        put(layer, "norm", self._keep_alive(w.norm.float()), torch.float32, self.d_model)
        put(layer, "taps", taps, torch.float32, self.k, self.d)
        put(layer, "conv_bias", bias, torch.float32, self.d)
        put(layer, "A2", decay, torch.float32, self.d, self.n)
        put(layer, "D", self._keep_alive(w.D.float()), torch.float32, self.d)
        return layer

    def _keep_alive(self, x: Tensor) -> Tensor:
        x = x.detach().contiguous()
        self._kept.append(x)
        return x


def prepare(inputs: StepInputs) -> Prepared:
    """Copy the weights into the format asked for."""
    return Prepared(inputs)


def new_states(prepared: Prepared, batch: int) -> list[tuple[Tensor, Tensor]]:
    """Zero states, float32."""
    p = prepared
    return [
        (
            torch.zeros(batch, p.k - 1, p.d, dtype=torch.float32),
            torch.zeros(batch, p.d, p.n, dtype=torch.float32),
        )
        for _ in p.layers
    ]


def step(
    prepared: Prepared, x: Tensor, modality: Tensor, states: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    p, b, wide = prepared, x.shape[0], torch.float32
    layers = p.with_states(states, b)
    x = x.detach().float().clone(memory_format=torch.contiguous_format)
    ids = modality.to(torch.int32).contiguous()
    if p.modalities == 1:
        ids = torch.zeros_like(ids)
    hidden = torch.empty(b, p.d_model, dtype=wide) if p.final_norm is not None else x
    words = 0 if p.head is None else p.head.weight.shape[1]
    logits = None if p.head is None else torch.empty(b, words, dtype=wide)
    pace = p.pace(b)
    threads = pace.threads()
    # Inputs of products with many sequences are laid out anew, in whole tiles.
    widest = -(-max(p.d, p.d_model, p.rank) // 32) * 32
    panels = -(-b // 16) * 16 * widest
    each = b * (5 * p.d + p.rank + 2 * p.n)
    scratch = torch.empty(each + threads * (b * p.d_model + panels) + 16, dtype=wide)
    call = DecodeCall(
        layers=len(p.layers),
        batch=b,
        d_model=p.d_model,
        d=p.d,
        n=p.n,
        k=p.k,
        modalities=p.modalities,
        format=FORMATS.index(p.format),
        threads=threads,
        eps=p.eps,
        layer=layers,
    )
    put(call, "x", x, wide, b, p.d_model)
    put(call, "modality", ids, torch.int32, b)
    put(call, "final_norm", p.final_norm, wide, p.d_model)
    put(call, "hidden", hidden, wide, b, p.d_model)
    put(call, "logits", logits, wide, b, words)
    put(call, "scratch", scratch, wide, *scratch.shape)
    if p.head is not None:
        call.head = p.head.matrix()
    start = time.perf_counter()
    if native.library().mom_decode_step(ctypes.byref(call)):
        raise ValueError(f"modality must be in 0..{p.modalities - 1}, got {ids.tolist()}")
    pace.took(threads, start, time.perf_counter())
    return hidden if logits is None else logits
