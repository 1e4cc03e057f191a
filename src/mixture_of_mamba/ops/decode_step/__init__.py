"""One token of every sequence through a whole model in one native call (CPU)."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import native
from ..derivatives import formula_needed
from ..dispatch import BackendError
from ..mamba_block import Weights
from ..native_buffers import put
from ..selective_scan.cpu import MOST_STATES
from .call import FORMATS, DecodeCall, DecodeLayer, Packed, pack, together
from .pace import Pace

__all__ = ["FORMATS", "DecodeStep"]

#: Multiply-adds of a step for each thread, below which several are never worth it.
PRODUCTS = 1 << 17


class DecodeStep:
    """All blocks, the last norm and the head, for one token of each sequence.

    With few sequences a step costs the time of reading the weights once, so they are kept in the
    format asked for; activations, sums and states are float32 in every format. (On CPUs with AMX,
    five and more sequences that share a weight go to the tile unit where it is bfloat16 or int8:
    16 bits of an activation count there. The error is below 1e-5; rounding the weights costs 5e-4
    and more.) The weights are copied: later changes of the model are not seen. A step holds no
    states of its own, so threads may share one, each with its own states.

    Args:
        blocks: weights of each block (layers.fused.block_weights).
        eps: of all norms.
        final_norm: (d_model,) weight of the norm after the blocks; None: stop before it.
        head: (v, d_model) output map; None: no logits.
        weights: "float32", "bfloat16" or "int8" (weight only, one scale a row).

    Raises:
        BackendError: the CPU kernels are not available here.
        ValueError: an unknown format, blocks of different shapes, a head without its norm.

    Example:
        >>> step = DecodeStep(blocks, eps=1e-5, final_norm=norm, head=head, weights="int8")
        >>> states = step.new_states(batch=2)
        >>> logits = step(x, modality, states)  # x (2, d_model), modality (2,); states move on
    """

    def __init__(
        self,
        blocks: Sequence[Weights],
        *,
        eps: float,
        final_norm: Tensor | None = None,
        head: Tensor | None = None,
        weights: str = "float32",
    ) -> None:
        if reason := native.why_not():
            raise BackendError(f"the native decode step cannot serve: {reason}")
        if weights not in FORMATS:
            raise ValueError(f"weights is {weights!r}; choose from {FORMATS}")
        if not blocks or len({_shape(w) for w in blocks}) != 1:
            raise ValueError("blocks must be at least one, and all of one shape")
        if head is not None and final_norm is None:
            raise ValueError("a head reads normed rows; give final_norm as well")
        self.eps, self.format = eps, weights
        (self.d, self.n), self.k = blocks[0].A_log.shape, blocks[0].conv_weight.shape[1]
        if self.n > MOST_STATES:
            raise ValueError(f"the native decode step serves up to {MOST_STATES} states")
        self.d_model = blocks[0].in_weight.shape[2]
        self.rank = blocks[0].dt_weight.shape[2]
        self.modalities = max(p.shape[0] for w in blocks for p in _projections(w))
        self._keep: list[Tensor] = []
        packed = [p for w in blocks for p in self._packed(w)]
        if head is not None:
            packed.append(pack(head[None], None, weights))
        places = together([p.weight for p in packed])
        self._packs = [p._replace(weight=x) for p, x in zip(packed, places, strict=True)]
        layers = [self._layer(w, self._packs[4 * i :][:4]) for i, w in enumerate(blocks)]
        self._layers = (DecodeLayer * len(blocks))(*layers)
        self._final = None if final_norm is None else self._hold(final_norm.detach().float())
        self._head = None if head is None else self._packs[-1]
        self._products = sum(p.weight[0].numel() for p in self._packs)  # of a sequence's step
        self._paces: dict[tuple[int, int], Pace] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights that a step of one modality reads at most."""
        return sum(p.nbytes for p in self._packs)

    def most_threads(self, batch: int) -> int:
        """Most threads of a step of so many sequences; one for a tiny model."""
        return min(torch.get_num_threads(), max(1, batch * self._products // PRODUCTS))

    def _pace(self, batch: int) -> Pace:
        key = (batch, self.most_threads(batch))
        return self._paces.setdefault(key, Pace(key[1]))

    def new_states(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Zero states: for each block conv (b, k-1, d) and ssm (b, d, n), float32."""
        return [
            (
                torch.zeros(batch, self.k - 1, self.d, dtype=torch.float32),
                torch.zeros(batch, self.d, self.n, dtype=torch.float32),
            )
            for _ in self._layers
        ]

    def __call__(
        self, x: Tensor, modality: Tensor, states: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """One step.

        Args:
            x: (b, d_model) embeddings.
            modality: (b,) integers, the modality of each sequence's token.
            states: per block conv (b, k-1, d), oldest first, and ssm (b, d, n), both contiguous
                float32 (MambaState of a float32 model fits); they are updated in place.

        Returns:
            Logits (b, v) float32; without a head the (normed) hidden rows (b, d_model).

        Raises:
            ValueError: shapes, dtypes or modalities that do not fit; a derivative is asked for.
        """
        if formula_needed(x) or (torch.is_grad_enabled() and x.requires_grad):
            raise ValueError(
                "the native decode step has no derivatives; call it under torch.no_grad(), or "
                "run the blocks themselves"
            )
        b = x.shape[0]
        if x.shape != (b, self.d_model):
            raise ValueError(f"x has shape {tuple(x.shape)}; (batch, {self.d_model}) is needed")
        if modality.shape != (b,):
            raise ValueError(f"modality has shape {tuple(modality.shape)}; ({b},) is needed")
        if modality.is_floating_point() or modality.dtype == torch.bool:
            raise ValueError(f"modality is {modality.dtype}; integers are needed")
        layers = self._attached(states, b)
        x = x.detach().float().clone(memory_format=torch.contiguous_format)
        ids = modality.to(torch.int32).contiguous()
        if self.modalities == 1:
            ids = torch.zeros_like(ids)
        wide = torch.float32
        hidden = torch.empty(b, self.d_model, dtype=wide) if self._final is not None else x
        words = 0 if self._head is None else self._head.weight.shape[1]
        logits = None if self._head is None else torch.empty(b, words, dtype=wide)
        pace = self._pace(b)
        threads = pace.threads()
        # Inputs of products with many sequences are laid out anew, in whole tiles.
        widest = -(-max(self.d, self.d_model, self.rank) // 32) * 32
        panels = -(-b // 16) * 16 * widest
        each = b * (5 * self.d + self.rank + 2 * self.n)
        scratch = torch.empty(each + threads * (b * self.d_model + panels) + 16, dtype=wide)
        call = DecodeCall(
            layers=len(self._layers),
            batch=b,
            d_model=self.d_model,
            d=self.d,
            n=self.n,
            k=self.k,
            modalities=self.modalities,
            format=FORMATS.index(self.format),
            threads=threads,
            eps=self.eps,
            layer=layers,
        )
        put(call, "x", x, wide, b, self.d_model)
        put(call, "modality", ids, torch.int32, b)
        put(call, "final_norm", self._final, wide, self.d_model)
        put(call, "hidden", hidden, wide, b, self.d_model)
        put(call, "logits", logits, wide, b, words)
        put(call, "scratch", scratch, wide, *scratch.shape)
        if self._head is not None:
            call.head = self._head.matrix()
        start = time.perf_counter()
        if native.library().mom_decode_step(ctypes.byref(call)):
            raise ValueError(f"modality must be in 0..{self.modalities - 1}, got {ids.tolist()}")
        pace.took(threads, start, time.perf_counter())
        return hidden if logits is None else logits

    def _attached(
        self, states: Sequence[tuple[Tensor, Tensor]], batch: int
    ) -> ctypes.Array[DecodeLayer]:
        """The layers' records with the states' places: of this call, since other threads may call
        with states of theirs."""
        if len(states) != len(self._layers):
            raise ValueError(f"there are {len(states)} states, but {len(self._layers)} blocks")
        layers = type(self._layers).from_buffer_copy(self._layers)
        for layer, (conv, ssm) in zip(layers, states, strict=True):
            put(layer, "conv", conv, torch.float32, batch, self.k - 1, self.d)
            put(layer, "ssm", ssm, torch.float32, batch, self.d, self.n)
        return layers

    def _packed(self, w: Weights) -> list[Packed]:
        """The projections in the order of DecodeLayer."""
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
        bias = None if w.conv_bias is None else self._hold(w.conv_bias.float())
        decay = self._hold(-torch.exp(w.A_log.float()) / math.log(2))
        put(layer, "norm", self._hold(w.norm.float()), torch.float32, self.d_model)
        put(layer, "taps", self._hold(w.conv_weight.float().t()), torch.float32, self.k, self.d)
        put(layer, "conv_bias", bias, torch.float32, self.d)
        put(layer, "A2", decay, torch.float32, self.d, self.n)
        put(layer, "D", self._hold(w.D.float()), torch.float32, self.d)
        return layer

    def _hold(self, x: Tensor) -> Tensor:
        x = x.detach().contiguous()
        self._keep.append(x)
        return x


def _projections(w: Weights) -> tuple[Tensor, ...]:
    return (w.in_weight, w.x_weight, w.dt_weight, w.dt_bias, w.out_weight)


def _shape(w: Weights) -> tuple[torch.Size | None, ...]:
    return tuple(None if v is None else v.shape for v in w)
