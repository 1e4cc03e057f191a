"""The chunk-parallel path: where batch x channels cannot fill a GPU, time is cut into segments.

Each segment is first walked from a zero state (or backwards from a zero gradient) to what it adds
by itself; a short sequential pass over the segments then gives every one its true start, and the
main kernels run on all segments at once. Each element is computed once more on a full device.
"""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import sigmoid
from .triton_tiles import (
    advance,
    at_start,
    existing,
    lanes,
    load_bias,
    load_decay,
    load_info,
    load_rows,
    load_words,
    sequence_words,
    step_size,
)

__all__ = ["carry_kernel", "segment_gradient_kernel", "segment_state_kernel"]


@triton.jit(do_not_specialize=["opaque_one"])
def segment_state_kernel(
    u,
    delta,
    packed,
    step_info,
    A,
    bias,
    slots,
    totals,
    length,
    segment,
    segments,
    d,
    n,
    stride_u,
    stride_delta,
    opaque_one,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """End state of segment s from a zero start -> slots[b, s + 1] (n, d); its step sizes' sum ->
    totals[b, s + 1] (d,). The last segment has no successor and no program."""
    channel, state, live, both = lanes(d, n, opaque_one, N, BLOCK)
    b = tl.program_id(1)
    s = tl.program_id(2)
    first = s * segment
    end = first + segment
    decay = load_decay(A, channel, state, both, d)
    words = sequence_words(packed, b, length, opaque_one, N)
    h, total = advance(
        tl.zeros((N, BLOCK), tl.float32),
        u, delta, bias, step_info + b * length, words, slots,
        decay, channel, state, live, both, first, end, end, d, n, stride_u, stride_delta,
        N, BLOCK, T, HAS_BIAS, HAS_RESETS, SOFTPLUS, False, UNMASKED, LONG_OFFSETS,
    )  # fmt: skip
    slot = (b * segments + s + 1).to(tl.int64)
    tl.store(slots + (slot * n + state[:, None]) * d + channel[None, :], h, mask=both)
    tl.store(totals + slot * d + channel, total, mask=live)


@triton.jit(do_not_specialize=["opaque_one"])
def segment_gradient_kernel(
    dy,
    delta,
    z,
    packed,
    step_info,
    A,
    bias,
    slots,
    totals,
    length,
    segment,
    segments,
    d,
    n,
    stride_dy,
    stride_delta,
    stride_z,
    opaque_one,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """Gradient of the state before segment s + 1 that its own outputs cause -> slots[b, s]; the sum
    of its step sizes -> totals[b, s]. The first segment has no program."""
    channel, state, live, both = lanes(d, n, opaque_one, N, BLOCK)
    b = tl.program_id(1)
    s = tl.program_id(2)
    first = (s + 1) * segment
    end = tl.minimum(first + segment, length)
    step_info += b * length
    words = sequence_words(packed, b, length, opaque_one, N)
    decay = load_decay(A, channel, state, both, d)
    dh = tl.zeros((N, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    tiles = tl.cdiv(end - first, T)
    for j in range(tiles):
        t = first + (tiles - 1 - j) * T
        left = end - t
        info = load_info(step_info, t, end, T, UNMASKED)
        tile_delta = load_rows(
            delta, info, stride_delta, channel, d, left, T, UNMASKED, LONG_OFFSETS
        )
        tile_dy = load_rows(dy, info, stride_dy, channel, d, left, T, UNMASKED, LONG_OFFSETS)
        tile_z = tile_dy
        if HAS_Z:
            tile_z = load_rows(z, info, stride_z, channel, d, left, T, UNMASKED, LONG_OFFSETS)
        biases = tile_dy
        if HAS_BIAS:
            biases = load_bias(bias, info, d, channel, live, T, UNMASKED)
        tile_words = words + t * (2 * N)
        for i in tl.static_range(T - 1, -1, -1):
            here = t + i < end
            dt = step_size(tile_delta[i], biases[i], here, HAS_BIAS, SOFTPLUS, UNMASKED)
            _, out_c = load_words(tile_words, i, state, here, N, BLOCK, UNMASKED)
            g = tile_dy[i].to(tl.float32)
            if HAS_Z:
                gate = tile_z[i].to(tl.float32)
                g = g * gate * sigmoid(gate)
            dh = (dh + out_c * g[None, :]) * tl.exp2(dt[None, :] * decay)
            dh = existing(at_start(dh, info[i], HAS_RESETS), both, UNMASKED)
            total += dt
            if HAS_RESETS:
                total = tl.where((info[i] & 1) != 0, float("inf"), total)
    slot = (b * segments + s).to(tl.int64)
    tl.store(slots + (slot * n + state[:, None]) * d + channel[None, :], dh, mask=both)
    tl.store(totals + slot * d + channel, total, mask=live)


@triton.jit(do_not_specialize=["opaque_one"])
def carry_kernel(
    start,
    A,
    slots,
    totals,
    segments,
    d,
    n,
    opaque_one,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_START: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """slots (b, s, n, d), what each segment's neighbour adds by itself -> what each segment starts
    with: the first one with start (b, n, d) or zero. With REVERSE from the last to the first."""
    channel, state, live, both = lanes(d, n, opaque_one, N, BLOCK)
    b = tl.program_id(1)
    decay = load_decay(A, channel, state, both, d)
    h = tl.zeros((N, BLOCK), tl.float32)
    if HAS_START:
        begin = (b.to(tl.int64) * n + state[:, None]) * d + channel[None, :]
        h = tl.load(start + begin, mask=both, other=0.0)
    for i in range(segments):
        s = segments - 1 - i if REVERSE else i
        slot = (b * segments + s).to(tl.int64)
        at = slots + (slot * n + state[:, None]) * d + channel[None, :]
        if i > 0:
            total = tl.load(totals + slot * d + channel, mask=live, other=0.0)
            added = tl.load(at, mask=both, other=0.0)
            # An infinite sum says that a document started, or that nothing is left of the state.
            left = tl.where(total[None, :] == float("inf"), 0.0, h)
            h = tl.exp2(total[None, :] * decay) * left + added
        tl.store(at, h, mask=both)
