"""Portable backend "torch": chunks of time, recomputed in the backward; any device and dtype.

A chunk is laid out time-major, (c, b, d, n), so that one step is one contiguous slice and the
whole recurrence of a step is a single fused multiply-add. Only the state at the head of each chunk
is kept for the backward, so memory grows with `t / c`, not with `t`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ScanGrads, ScanInputs

__all__ = ["backward", "checkpoint_shape", "forward", "why_not"]

#: States of one chunk that should stay in a core's cache, as float32.
CHUNK_ELEMENTS = 1 << 19
#: Steps.
SHORTEST, LONGEST = 16, 256


def why_not(inputs: ScanInputs) -> str | None:
    """Serves every device, dtype and shape."""
    return None


def chunk_steps(inputs: ScanInputs) -> int:
    """Steps of one chunk: as many as the cache holds, so that a step's overhead is shared."""
    # sym_max and sym_min are max and min; in a graph with dynamic sizes they choose when it runs.
    states = torch.sym_max(1, inputs.row_index.batch * inputs.d * inputs.n)
    return torch.sym_min(LONGEST, torch.sym_max(SHORTEST, CHUNK_ELEMENTS // states))


def checkpoint_shape(inputs: ScanInputs) -> tuple[int, ...]:
    """(chunks, b, d, n): the state that enters each chunk."""
    chunks = -(-inputs.row_index.length // chunk_steps(inputs))
    return (chunks, inputs.row_index.batch, inputs.d, inputs.n)


class Chunk(NamedTuple):
    """One chunk in time, in A's dtype: everything that both directions need.

    Attributes:
        where: (c * b,) int64, rows of the chunk's positions, time-major.
        u, raw, step: (c, b, d) input, step size before and after softplus.
        B, C: (c, b, n).
        decay, h: (c, b, d, n) exp(step * A), and the states after each step.
        resets: (c, b, 1, 1) bool, where a document starts, and nothing of the state before counts,
            not even as zero times NaN; None: nowhere.
    """

    where: Tensor
    u: Tensor
    raw: Tensor
    step: Tensor
    B: Tensor
    C: Tensor
    decay: Tensor
    h: Tensor
    resets: Tensor | None


def forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    state = _initial(inputs)
    y = inputs.u.new_empty(inputs.u.shape)
    checkpoints = state.new_empty(checkpoint_shape(inputs) if save else (0,))
    # Autocast would round the states for their products with C.
    with torch.autocast(inputs.device_type, enabled=False):
        for i, span in enumerate(_spans(inputs)):
            if save:
                checkpoints[i] = state
            chunk = _run(inputs, span, state)
            state = chunk.h[-1]
            out = _output(inputs, chunk)
            if inputs.z is not None:
                out = out * F.silu(_take(inputs.z, chunk.where, out))
            y[chunk.where] = out.flatten(0, 1).to(y.dtype)
    return y, state.clone(), checkpoints


def backward(
    inputs: ScanInputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None
) -> ScanGrads:
    A = inputs.A
    dstate = torch.zeros_like(_initial(inputs)) if dfinal is None else dfinal.to(A.dtype)
    grads = {
        name: None if (x := getattr(inputs, name)) is None else torch.zeros_like(x, dtype=dtype)
        for name, dtype in (
            *((name, inputs.u.dtype) for name in ("u", "delta", "B", "C", "z")),
            *((name, A.dtype) for name in ("A", "D", "delta_bias")),
        )
    }
    with torch.autocast(inputs.device_type, enabled=False):
        for i, span in reversed(list(enumerate(_spans(inputs)))):
            dstate = _chunk_backward(inputs, span, checkpoints[i], dy, dstate, grads)
    for name in ("D", "delta_bias"):
        if (g := grads[name]) is not None:
            grads[name] = g.to(getattr(inputs, name).dtype)
    return ScanGrads(
        **grads,  # type: ignore[arg-type]
        state=None if inputs.state is None else dstate.to(inputs.state.dtype, copy=True),
    )


def _chunk_backward(
    inputs: ScanInputs,
    span: slice,
    start: Tensor,
    dy: Tensor,
    dstate: Tensor,
    grads: dict[str, Tensor | None],
) -> Tensor:
    """Add one chunk's gradients to `grads`; -> gradient of the state that enters it."""
    chunk = _run(inputs, span, start)
    index, u, raw, step, B, C, decay, h, resets = chunk
    dout = _take(dy, index, u)

    def put(name: str, value: Tensor) -> None:
        target = grads[name]
        if target is not None:
            target[index] = value.flatten(0, 1).to(target.dtype)

    if inputs.z is not None:
        z = _take(inputs.z, index, u)
        gate = torch.sigmoid(z)
        put("z", dout * _output(inputs, chunk) * (gate * (1 + z * (1 - gate))))
        dout = dout * (z * gate)
    put("C", torch.einsum("cbd,cbdn->cbn", dout, h))
    # dh[t] = dout[t] * C[t] + decay[t+1] * dh[t+1], in place over the first term.
    dh = dout[..., None] * C[:, :, None, :]
    dh[-1] += dstate
    starts = _steps_with_resets(chunk)
    for t in range(len(dh) - 2, -1, -1):
        if resets is not None and t + 1 in starts:
            dh[t] += (decay[t + 1] * dh[t + 1]).masked_fill_(resets[t + 1], 0.0)
        else:
            dh[t].addcmul_(decay[t + 1], dh[t + 1])
    entering = decay[0] * dh[0]
    if resets is not None:
        entering.masked_fill_(resets[0], 0.0)
        # From here on h is needed as what enters the next step.
        h[:-1].masked_fill_(resets[1:], 0.0)
        start = start.masked_fill(resets[0], 0.0)
    put("B", torch.einsum("cbd,cbdn->cbn", step * u, dh))
    dinput = torch.einsum("cbdn,cbn->cbd", dh, B)
    # Gradient of the exponent step * A: decay * h[t-1] * dh[t].
    dexponent = dh.mul_(decay)
    dexponent[1:] *= h[:-1]
    dexponent[0] *= start
    _add(grads["A"], torch.einsum("cbdn,cbd->dn", dexponent, step))
    draw = torch.einsum("cbdn,dn->cbd", dexponent, inputs.A) + dinput * u
    if inputs.softplus:
        draw = draw * torch.sigmoid(raw)
    put("delta", draw)
    du = dinput * step
    if inputs.D is not None:
        _add(grads["D"], (dout * u).sum((0, 1)))
        du = du + dout * inputs.D.to(u.dtype)
    put("u", du)
    if (dbias := grads["delta_bias"]) is not None:
        _add_by_modality(dbias, inputs.bias_rows, span, draw)
    return entering


def _run(inputs: ScanInputs, span: slice, state: Tensor) -> Chunk:
    """The recurrence over one chunk, from the state that enters it."""
    index = _positions(inputs, span)
    like = state.new_empty(span.stop - span.start, inputs.row_index.batch, 0)
    u, raw, B, C = (_take(x, index, like) for x in (inputs.u, inputs.delta, inputs.B, inputs.C))
    if inputs.delta_bias is not None:
        bias = inputs.delta_bias.to(raw.dtype)
        raw = raw + (
            bias[0] if inputs.bias_rows is None else bias[inputs.bias_rows[:, span].T.long()]
        )
    step = F.softplus(raw) if inputs.softplus else raw
    decay = torch.exp(step[..., None] * inputs.A)
    h = (step * u)[..., None] * B[:, :, None, :]
    resets = inputs.row_index.resets
    resets = None if resets is None else resets[:, span].T[..., None, None]
    chunk = Chunk(index, u, raw, step, B, C, decay, h, resets)
    starts = _steps_with_resets(chunk)
    previous = state
    for t in range(len(h)):
        if resets is not None and t in starts:
            previous = previous.masked_fill(resets[t], 0.0)
        previous = h[t].addcmul_(decay[t], previous)
    return chunk


def _steps_with_resets(chunk: Chunk) -> Container[int]:
    """Steps of a chunk where a document may start in some sequence: on the CPU those where one
    does, elsewhere all, since asking would wait for the device."""
    if chunk.resets is None:
        return ()
    if chunk.resets.device.type != "cpu":
        return range(len(chunk.resets))
    return set(chunk.resets.flatten(1).any(1).nonzero()[:, 0].tolist())


def _output(inputs: ScanInputs, chunk: Chunk) -> Tensor:
    """(c, b, d) before the gate."""
    out = torch.einsum("cbdn,cbn->cbd", chunk.h, chunk.C)
    return out if inputs.D is None else out + inputs.D.to(out.dtype) * chunk.u


def _initial(inputs: ScanInputs) -> Tensor:
    """(b, d, n) the state before t = 0."""
    if inputs.state is not None:
        return inputs.state.to(inputs.A.dtype)
    return inputs.A.new_zeros(inputs.row_index.batch, inputs.d, inputs.n)


def _spans(inputs: ScanInputs) -> Iterator[slice]:
    """The chunks' ranges of time."""
    steps = chunk_steps(inputs)
    for start in range(0, inputs.row_index.length, steps):
        yield slice(start, min(start + steps, inputs.row_index.length))


def _positions(inputs: ScanInputs, span: slice) -> Tensor:
    """(c * b,) int64, the rows of a range of time, time-major."""
    index, device = inputs.row_index, inputs.u.device
    if index.rows is not None:
        return index.rows[:, span].T.reshape(-1).long()
    time = torch.arange(span.start, span.stop, device=device)[:, None]
    batch = torch.arange(index.batch, device=device)
    return (time + batch * index.length).reshape(-1)


def _take(x: Tensor, index: Tensor, like: Tensor) -> Tensor:
    """Rows `index` of x as (c, b, channels) in the dtype of `like`, which gives c and b."""
    return x[index].view(like.shape[0], like.shape[1], x.shape[1]).to(like.dtype)


def _add(total: Tensor | None, value: Tensor) -> None:
    if total is not None:
        total += value


def _add_by_modality(total: Tensor, modality: Tensor | None, span: slice, draw: Tensor) -> None:
    """Sum (c, b, d) into (m, d)."""
    if modality is None:
        total[0] += draw.sum((0, 1))
    else:
        which = modality[:, span].T.reshape(-1).long()
        total.index_add_(0, which, draw.flatten(0, 1))
