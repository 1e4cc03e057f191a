"""The scan's forward in Triton.

The values of a tile are loaded before the first step of the tile before it, so that memory latency
hides behind arithmetic; a tile's stores come last, so that no load waits for a possible alias.
"""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import sigmoid
from .triton_tiles import (
    at_step,
    lanes,
    load_bias,
    load_decay,
    load_info,
    load_rows,
    load_words,
    next_state,
    row_offset,
    sequence_words,
    step_size,
    store,
)

__all__ = ["scan_forward_kernel"]


@triton.jit(do_not_specialize=["opaque_one"])
def scan_forward_kernel(
    u,
    delta,
    z,
    packed,
    step_info,
    A,
    D,
    bias,
    start,
    y,
    final,
    checkpoints,
    length,
    segment,
    d,
    n,
    stride_u,
    stride_delta,
    stride_z,
    opaque_one,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    EVERY: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_START: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SAVE: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """One program: BLOCK channels of one sequence over one segment of `segment` steps.

    h <- exp(dt A) h + dt u B;  y = (<C, h> + D u) silu(z).  Every EVERY steps the state before the
    step goes to checkpoints (b, chunks, n, d); start is (b, s, n, d);
    the last segment writes final (b, n, d).
    """
    channel, state, live, both = lanes(d, n, opaque_one, N, BLOCK)
    b = tl.program_id(1)
    s = tl.program_id(2)
    first = s * segment
    end = tl.minimum(first + segment, length)
    chunks = tl.cdiv(length, EVERY)
    step_info += b * length
    words = sequence_words(packed, b, length, opaque_one, N)

    decay = load_decay(A, channel, state, both, d)
    h = tl.zeros((N, BLOCK), tl.float32)
    if HAS_START:
        begin = (b * tl.num_programs(2) + s).to(tl.int64) * n + state[:, None]
        h = tl.load(start + begin * d + channel[None, :], mask=both, other=0.0)
    skip = tl.zeros((BLOCK,), tl.float32)
    if HAS_D:
        skip = tl.load(D + channel, mask=live, other=0.0).to(tl.float32)

    info = load_info(step_info, first, end, T, UNMASKED)
    tile_u = load_rows(u, info, stride_u, channel, d, end - first, T, UNMASKED, LONG_OFFSETS)
    tile_delta = load_rows(
        delta, info, stride_delta, channel, d, end - first, T, UNMASKED, LONG_OFFSETS
    )
    tile_z = tile_u
    if HAS_Z:
        tile_z = load_rows(z, info, stride_z, channel, d, end - first, T, UNMASKED, LONG_OFFSETS)
    next_info = load_info(step_info, first + T, end, T, UNMASKED)
    for t in range(first, end, T):
        if SAVE:
            if t % EVERY == 0:
                to = ((b * chunks + t // EVERY).to(tl.int64) * n + state[:, None]) * d
                tl.store(checkpoints + to + channel[None, :], h, mask=both)
        # Loads of the next tile, and step_info of the one after it.
        left = end - t - T
        next_u = load_rows(u, next_info, stride_u, channel, d, left, T, UNMASKED, LONG_OFFSETS)
        next_delta = load_rows(
            delta, next_info, stride_delta, channel, d, left, T, UNMASKED, LONG_OFFSETS
        )
        next_z = next_u
        if HAS_Z:
            next_z = load_rows(z, next_info, stride_z, channel, d, left, T, UNMASKED, LONG_OFFSETS)
        later_info = load_info(step_info, t + 2 * T, end, T, UNMASKED)
        biases = tile_u
        if HAS_BIAS:
            biases = load_bias(bias, info, d, channel, live, T, UNMASKED)

        tile_words = words + t * (2 * N)
        ys = ()
        for i in tl.static_range(T):
            here = t + i < end
            x = tile_u[i].to(tl.float32)
            dt = step_size(tile_delta[i], biases[i], here, HAS_BIAS, SOFTPLUS, UNMASKED)
            in_b, out_c = load_words(tile_words, i, state, here, N, BLOCK, UNMASKED)
            a = tl.exp2(dt[None, :] * decay)
            h = next_state(h, a, dt * x, in_b, both, info[i], HAS_RESETS, UNMASKED)
            out = tl.sum(h * out_c, 0) + skip * x
            if HAS_Z:
                gate = tile_z[i].to(tl.float32)
                out = out * gate * sigmoid(gate)
            ys = ys + (out.to(y.dtype.element_ty),)
        for i in tl.static_range(T):
            to = y + (row_offset(info[i], d, LONG_OFFSETS) + channel)
            store(to, ys[i], at_step(channel, d, t + i < end), UNMASKED)
        info = next_info
        next_info = later_info
        tile_u = next_u
        tile_delta = next_delta
        tile_z = next_z
    if end == length:
        to = (b.to(tl.int64) * n + state[:, None]) * d + channel[None, :]
        tl.store(final + to, h, mask=both)
