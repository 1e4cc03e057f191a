"""The convolution's Triton kernels: a window of the last K-1 inputs rolls over CHUNK steps.

A document start empties the window, so no tap needs to know how old its input is. A program reads
the K-1 inputs before its chunk again (and in the backward the K-1 steps after it), so programs are
independent; sums over programs leave as parts, added later in a fixed order.
"""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import sigmoid
from .triton_window import (
    load_bias,
    load_taps,
    place,
    push,
    step_fresh,
    step_row,
    window_before,
)

__all__ = ["conv_backward_kernel", "conv_forward_kernel"]


@triton.jit
def conv_forward_kernel(
    x,
    weight,
    bias,
    rows,
    resets,
    state,
    y,
    final,
    length,
    d,
    stride_x,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    SILU: tl.constexpr,
):
    """y = silu(bias + sum_j taps[j] x[t - (K-1) + j]) over BLOCK channels and CHUNK steps; the
    program of the last chunk writes final (b, K-1, d)."""
    channel, sequence, first, end = place(length, BLOCK, CHUNK)
    taps = load_taps(weight, channel, d, K)
    start = load_bias(bias, channel, d, BLOCK, HAS_BIAS)
    window = window_before(
        x, state, rows, resets, sequence, first, d, stride_x, channel,
        BLOCK, K, HAS_STATE, HAS_ROWS, HAS_RESETS, length,
    )  # fmt: skip
    for t in range(first, end, T):
        tile = ()
        places = ()
        fresh = ()
        for i in tl.static_range(T):
            here = t + i < end
            position = sequence * length + t + i
            row = step_row(rows, position, here, HAS_ROWS)
            mask = channel < tl.where(here, d, 0)
            value = tl.load(x + row * stride_x + channel, mask=mask, other=0.0)
            tile = tile + (value.to(tl.float32),)
            places = places + (row,)
            fresh = fresh + (step_fresh(resets, position, here, HAS_RESETS),)
        outs = ()
        for i in tl.static_range(T):
            out = start + taps[K - 1] * tile[i]
            for j in tl.static_range(K - 1):
                out += taps[j] * tl.where(fresh[i], 0.0, window[j])
            if K > 1:
                window = push(window, tile[i], fresh[i])
            if SILU:
                out = out * sigmoid(out)
            outs = outs + (out.to(y.dtype.element_ty),)
        for i in tl.static_range(T):
            mask = channel < tl.where(t + i < end, d, 0)
            tl.store(y + places[i] * d + channel, outs[i], mask=mask)
    if K > 1:
        if end == length:
            last = window_before(
                x, state, rows, resets, sequence, length, d, stride_x, channel,
                BLOCK, K, HAS_STATE, HAS_ROWS, HAS_RESETS, length,
            )  # fmt: skip
            for j in tl.static_range(K - 1):
                to = final + (sequence * (K - 1) + j).to(tl.int64) * d + channel
                tl.store(to, last[j].to(final.dtype.element_ty), mask=channel < d)


@triton.jit
def conv_backward_kernel(
    dy,
    dfinal,
    x,
    weight,
    bias,
    rows,
    resets,
    state,
    dx,
    dstate,
    dweight,
    dbias,
    length,
    d,
    stride_dy,
    stride_x,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_STATE: tl.constexpr,
    HAS_DFINAL: tl.constexpr,
    SILU: tl.constexpr,
):
    """Gradients of CHUNK inputs; parts dweight (b, chunks, K, d), dbias (b, chunks, d).

    With p[t] the gradient before the activation: dx[s] = sum_j taps[K-1-j] p[s + j] over the steps
    of s's own document, so K-1 steps after the chunk are computed too. `pending` holds the sums of
    the last K-1 inputs, `open_` whether their document still runs; an input is written when its
    last tap has passed. The first chunk also writes the gradient of the state, the inputs before 0.
    """
    channel, sequence, first, end = place(length, BLOCK, CHUNK)
    stop = first + CHUNK + K - 1
    taps = load_taps(weight, channel, d, K)
    start = load_bias(bias, channel, d, BLOCK, HAS_BIAS)
    window = window_before(
        x, state, rows, resets, sequence, first, d, stride_x, channel,
        BLOCK, K, HAS_STATE, HAS_ROWS, HAS_RESETS, length,
    )  # fmt: skip
    pending = ()
    open_ = ()
    for _ in tl.static_range(K - 1):
        pending = pending + (tl.zeros((BLOCK,), tl.float32),)
        open_ = open_ + (first >= 0,)
    sum_taps = ()
    for _ in tl.static_range(K):
        sum_taps = sum_taps + (tl.zeros((BLOCK,), tl.float32),)
    sum_bias = tl.zeros((BLOCK,), tl.float32)
    for t in range(first, stop, T):
        tile = ()
        grads = ()
        fresh = ()
        for i in tl.static_range(T):
            here = t + i < tl.minimum(stop, length)
            position = sequence * length + t + i
            row = step_row(rows, position, here, HAS_ROWS)
            mask = channel < tl.where(here, d, 0)
            value = tl.load(x + row * stride_x + channel, mask=mask, other=0.0)
            grad = tl.load(dy + row * stride_dy + channel, mask=mask, other=0.0)
            tile = tile + (value.to(tl.float32),)
            grads = grads + (grad.to(tl.float32),)
            fresh = fresh + (step_fresh(resets, position, here, HAS_RESETS),)
        done = ()
        still = ()
        for i in tl.static_range(T):
            p = grads[i]
            seen = push((tl.zeros((BLOCK,), tl.float32),) + window, tile[i], fresh[i])
            if SILU:
                out = start
                for j in tl.static_range(K):
                    out += taps[j] * seen[j]
                share = sigmoid(out)
                p = p * share * (1.0 + out * (1.0 - share))
            own = tl.where(t + i < end, p, 0.0)
            sum_bias += own
            sums = ()
            for j in tl.static_range(K):
                sums = sums + (sum_taps[j] + own * seen[j],)
            sum_taps = sums
            # The inputs that this step sees, oldest first; then the oldest one has seen its last.
            now = ()
            runs = ()
            for j in tl.static_range(K - 1):
                alive = open_[j] & (fresh[i] == 0) if HAS_RESETS else open_[j]
                now = now + (pending[j] + tl.where(alive, taps[j] * p, 0.0),)
                runs = runs + (alive,)
            now = now + (taps[K - 1] * p,)
            runs = runs + (first >= 0,)
            done = done + (now[0],)
            still = still + (runs[0],)
            kept = ()
            kept_runs = ()
            kept_seen = ()
            for j in tl.static_range(1, K):
                kept = kept + (now[j],)
                kept_runs = kept_runs + (runs[j],)
                kept_seen = kept_seen + (seen[j],)
            pending = kept
            open_ = kept_runs
            window = kept_seen
        for i in tl.static_range(T):
            s = t + i - (K - 1)
            value = done[i]
            inside = (s >= first) & (s < end)
            if HAS_DFINAL:
                # The last K-1 inputs are the final state too, where no document started since.
                last = s - (length - (K - 1))
                at = dfinal + (sequence * (K - 1) + last).to(tl.int64) * d + channel
                wanted = (last >= 0) & (last < K - 1) & still[i] & (s < end)
                mask = channel < tl.where(wanted, d, 0)
                value += tl.load(at, mask=mask, other=0.0).to(tl.float32)
            row = step_row(rows, sequence * length + s, inside, HAS_ROWS)
            mask = channel < tl.where(inside, d, 0)
            tl.store(dx + row * d + channel, value.to(dx.dtype.element_ty), mask=mask)
            if HAS_STATE:
                before = (s < 0) & (first == 0)
                at = dstate + (sequence * (K - 1) + s + (K - 1)).to(tl.int64) * d + channel
                mask = channel < tl.where(before, d, 0)
                tl.store(at, value.to(dstate.dtype.element_ty), mask=mask)
    part = (sequence * tl.num_programs(2) + tl.program_id(2)).to(tl.int64)
    for j in tl.static_range(K):
        tl.store(dweight + (part * K + j) * d + channel, sum_taps[j], mask=channel < d)
    tl.store(dbias + part * d + channel, sum_bias, mask=channel < d)
