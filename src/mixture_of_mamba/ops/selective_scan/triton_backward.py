"""The scan's backward in Triton: chunks of time from the last to the first, recomputed.

From a chunk's checkpoint the state before each of its tiles is recomputed into `scratch` (which
stays in the L2 cache); then the tiles are walked backwards, and the states inside a tile live in
registers.
The sums over channels in dB and dC are products with a column of ones on the tensor cores, at a
fraction of the cost of a butterfly of shuffles; they leave the program as partial sums per block of
channels, added later in a fixed order: no atomics, the same bits every time.
"""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import LOG2E, sigmoid
from .triton_tiles import (
    advance,
    at_start,
    at_step,
    existing,
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

__all__ = ["scan_backward_kernel"]


@triton.jit
def put_column(total, terms, column: tl.constexpr, T: tl.constexpr, PRECISION: tl.constexpr):
    """total (N, T) with one column replaced by the sum over channels of terms (N, D).

    A product with ones, which are constant and cost no data movement. (With zeros in the other
    columns it could add to `total`, but zero times NaN would enter other steps.) The sum over an
    axis of one changes nothing and is free, but the compiler stops there when it moves what comes
    before a product into the product's layout, which would compute all of it twice.
    """
    left = tl.sum(terms[None, :, :], 0)
    sums = tl.dot(left, tl.full((terms.shape[1], T), 1.0, tl.float32), input_precision=PRECISION)
    return tl.where(tl.arange(0, T)[None, :] == column, sums, total)


@triton.jit
def add_at(sums, value, index):
    """The tuple of vectors with `value` added to entry `index` (a scalar known at run time)."""
    out = ()
    for m in tl.static_range(len(sums)):
        out = out + (sums[m] + tl.where(index == m, value, 0.0),)
    return out


@triton.jit(do_not_specialize=["opaque_one"])
def scan_backward_kernel(
    dy,
    u,
    delta,
    z,
    packed,
    step_info,
    A,
    D,
    bias,
    checkpoints,
    scratch,
    dend,
    du,
    ddelta,
    dz,
    dA,
    dD,
    dbias,
    partial,
    dstart,
    batch,
    length,
    segment,
    d,
    n,
    stride_dy,
    stride_u,
    stride_delta,
    stride_z,
    opaque_one,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    EVERY: tl.constexpr,
    MODALITIES: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_Z: tl.constexpr,
    HAS_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    HAS_DEND: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """One program: BLOCK channels of one sequence over one segment of `segment` steps.

    With g = dh[t] (the gradient of the state after step t) and a = exp(dt A):

        g += C dy silu(z);  du = dt <B, g> + D dy;  ddelta = u <B, g> + <A, a h[t-1] g>
        dA += dt a h[t-1] g;  dB = sum_d g dt u;  dC = sum_d h[t] dy silu(z);  dh[t-1] = a g

    Sums that cross programs leave as parts: dA (b, s, n, d), dD (b, s, d), dbias (b, s, m, d) and
    partial (blocks, b, t, 2, N) with dB and dC. dstart (b, s, n, d) is the gradient of the state
    before the segment.
    """
    channel, state, live, both = lanes(d, n, opaque_one, N, BLOCK)
    b = tl.program_id(1)
    s = tl.program_id(2)
    segments = tl.num_programs(2)
    first = s * segment
    end = tl.minimum(first + segment, length)
    chunks = tl.cdiv(length, EVERY)
    step_info += b * length
    words = sequence_words(packed, b, length, opaque_one, N)
    # The same addresses under another name: merged with the first reading, B and C of a whole tile
    # would have to stay in registers.
    words_again = words + (opaque_one - 1)
    decay = load_decay(A, channel, state, both, d)
    skip = tl.zeros((BLOCK,), tl.float32)
    if HAS_D:
        skip = tl.load(D + channel, mask=live, other=0.0).to(tl.float32)
    dh = tl.zeros((N, BLOCK), tl.float32)
    if HAS_DEND:
        after = (b * segments + s).to(tl.int64) * n + state[:, None]
        dh = tl.load(dend + after * d + channel[None, :], mask=both, other=0.0)
    program = (b * segments + s).to(tl.int64)
    scratch += program * (EVERY // T) * n * d
    partial += ((tl.program_id(0) * batch + b).to(tl.int64) * length) * 2 * N

    sum_A = tl.zeros((N, BLOCK), tl.float32)
    sum_D = tl.zeros((BLOCK,), tl.float32)
    sum_bias = ()
    for _ in tl.static_range(MODALITIES):
        sum_bias = sum_bias + (tl.zeros((BLOCK,), tl.float32),)

    for back in range(tl.cdiv(end - first, EVERY)):
        chunk = (end - 1) // EVERY - back
        begin_t = chunk * EVERY
        end_t = tl.minimum(begin_t + EVERY, end)
        saved = ((b * chunks + chunk).to(tl.int64) * n + state[:, None]) * d + channel[None, :]
        h = tl.load(checkpoints + saved, mask=both, other=0.0)
        if EVERY > T:
            tl.debug_barrier()  # all of the scratch's last chunk has been read
            advance(
                h, u, delta, bias, step_info, words, scratch, decay, channel, state, live, both,
                begin_t, end_t, end_t - T, d, n, stride_u, stride_delta,
                N, BLOCK, T, HAS_BIAS, HAS_RESETS, SOFTPLUS, True, UNMASKED, LONG_OFFSETS,
            )  # fmt: skip
            tl.debug_barrier()
        tiles = tl.cdiv(end_t - begin_t, T)
        for j in range(tiles):
            tile = tiles - 1 - j
            t = begin_t + tile * T
            left = end - t
            if EVERY > T:
                head = scratch + (tile * n + state[:, None]) * d + channel[None, :]
                h = tl.load(head, mask=both, other=0.0)
            info = load_info(step_info, t, end, T, UNMASKED)
            tile_u = load_rows(u, info, stride_u, channel, d, left, T, UNMASKED, LONG_OFFSETS)
            tile_delta = load_rows(
                delta, info, stride_delta, channel, d, left, T, UNMASKED, LONG_OFFSETS
            )
            tile_dy = load_rows(dy, info, stride_dy, channel, d, left, T, UNMASKED, LONG_OFFSETS)
            tile_z = tile_u
            if HAS_Z:
                tile_z = load_rows(z, info, stride_z, channel, d, left, T, UNMASKED, LONG_OFFSETS)
            biases = tile_u
            if HAS_BIAS:
                biases = load_bias(bias, info, d, channel, live, T, UNMASKED)

            tile_words = words + t * (2 * N)
            tile_again = words_again + t * (2 * N)
            # Forwards: the states before each step, dz, dC.
            total_B = tl.zeros((N, T), tl.float32)
            total_C = tl.zeros((N, T), tl.float32)
            before = ()
            dts = ()
            grads = ()
            dzs = ()
            for i in tl.static_range(T):
                here = t + i < end
                x = tile_u[i].to(tl.float32)
                dt = step_size(tile_delta[i], biases[i], here, HAS_BIAS, SOFTPLUS, UNMASKED)
                in_b, out_c = load_words(tile_words, i, state, here, N, BLOCK, UNMASKED)
                a = tl.exp2(dt[None, :] * decay)
                before = before + (at_start(h, info[i], HAS_RESETS),)
                h = next_state(h, a, dt * x, in_b, both, info[i], HAS_RESETS, UNMASKED)
                g = tile_dy[i].to(tl.float32)
                if HAS_Z:
                    gate = tile_z[i].to(tl.float32)
                    share = sigmoid(gate)
                    out = tl.sum(h * out_c, 0) + skip * x
                    slope = share * (1.0 + gate * (1.0 - share))
                    dzs = dzs + ((g * out * slope).to(dz.dtype.element_ty),)
                    g = g * gate * share
                total_C = put_column(total_C, h * g[None, :], i, T, PRECISION)
                dts = dts + (dt,)
                grads = grads + (g,)

            # Backwards through the tile.
            dus = ()
            ddeltas = ()
            for i in tl.static_range(T - 1, -1, -1):
                here = t + i < end
                x = tile_u[i].to(tl.float32)
                dt = dts[i]
                g = grads[i]
                in_b, out_c = load_words(tile_again, i, state, here, N, BLOCK, UNMASKED)
                dh = existing(dh + out_c * g[None, :], both, UNMASKED)
                total_B = put_column(total_B, dh * (dt * x)[None, :], i, T, PRECISION)
                along_b = tl.sum(dh * in_b, 0)
                # Recomputed, and not kept: see words_again.
                dh = dh * tl.exp2((dt * opaque_one.to(tl.float32))[None, :] * decay)
                q = dh * before[i]
                dh = at_start(dh, info[i], HAS_RESETS)
                sum_A += dt[None, :] * q
                slope = x * along_b + tl.sum(q * decay, 0) * (1.0 / LOG2E)
                if SOFTPLUS:
                    raw = tile_delta[i].to(tl.float32)
                    if HAS_BIAS:
                        raw = raw + biases[i]
                    slope = slope * sigmoid(raw)
                if HAS_BIAS:
                    kept = slope
                    if not UNMASKED:
                        kept = tl.where(here, slope, 0.0)
                    sum_bias = add_at(sum_bias, kept, (info[i] >> 1) & 15)
                sum_D += g * x
                dus = dus + ((dt * along_b + skip * g).to(du.dtype.element_ty),)
                ddeltas = ddeltas + (slope.to(ddelta.dtype.element_ty),)

            for i in tl.static_range(T):
                here = at_step(channel, d, t + i < end)
                to = row_offset(info[i], d, LONG_OFFSETS) + channel
                store(du + to, dus[T - 1 - i], here, UNMASKED)
                store(ddelta + to, ddeltas[T - 1 - i], here, UNMASKED)
                if HAS_Z:
                    store(dz + to, dzs[i], here, UNMASKED)
            step = t + tl.arange(0, T)
            part = partial + step[None, :] * (2 * N) + state[:, None]
            tl.store(part, total_B, mask=(step < end)[None, :])
            tl.store(part + N, total_C, mask=(step < end)[None, :])

    whole = (program * n + state[:, None]) * d + channel[None, :]
    tl.store(dA + whole, sum_A, mask=both)
    tl.store(dstart + whole, dh, mask=both)
    tl.store(dD + program * d + channel, sum_D, mask=live)
    for m in tl.static_range(MODALITIES):
        tl.store(dbias + (program * MODALITIES + m) * d + channel, sum_bias[m], mask=live)
