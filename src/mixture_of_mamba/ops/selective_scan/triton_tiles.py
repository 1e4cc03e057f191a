"""How the scan's Triton kernels read: one channel a lane, its states in registers.

Time is walked in tiles of `T` unrolled steps; a tile is a tuple of T vectors. B and C arrive
packed in time order: (b, t, n, 2) words of 64 bits, a pair (B, C) of float32 each, twice, so that a
step reads two cache lines. `step_info[b, t]` is ``row << 5 | modality << 1 | reset``. States and A
are (…, n, d), channels contiguous.

The offsets of channels and words include ``opaque_one - 1``, a zero that the compiler cannot see:
it then takes them for unaligned and reads one channel a lane, where it would merge accesses of
neighbours in one lane and shuffle at every step.

With `UNMASKED`, time, channels and states are multiples of the tiles, so nothing is masked; with
`LONG_OFFSETS`, row offsets need 64 bits.
"""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_math import LOG2E, softplus

__all__ = [
    "advance",
    "at_start",
    "at_step",
    "existing",
    "lanes",
    "load_bias",
    "load_decay",
    "load_info",
    "load_rows",
    "load_words",
    "next_state",
    "row_offset",
    "sequence_words",
    "step_size",
    "store",
]


@triton.jit
def lanes(d, n, opaque_one, N: tl.constexpr, BLOCK: tl.constexpr):
    """The program's channels (D,) and states (N,), which channels exist, and which (N, D) do."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK) + (opaque_one - 1)
    live = channel < d
    state = tl.arange(0, N)
    return channel, state, live, (state < n)[:, None] & live[None, :]


@triton.jit
def load_decay(A, channel, state, both, d):
    """A (N, D) for powers of two. Padded states and channels decay like A = -1, so that an infinite
    step size makes no NaN."""
    return tl.load(A + state[:, None] * d + channel[None, :], mask=both, other=-1.0) * LOG2E


@triton.jit
def sequence_words(packed, b, length, opaque_one, N: tl.constexpr):
    """The packed words of a sequence."""
    return packed + (b.to(tl.int64) * length * (2 * N) + (opaque_one - 1))


@triton.jit
def unpack(words):
    """One packed 64-bit word -> (B, C), both float32."""
    b = words.to(tl.int32).to(tl.float32, bitcast=True)
    c = (words >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return b, c


@triton.jit
def load(at, mask, UNMASKED: tl.constexpr):
    """A load that is masked unless the shapes are multiples of the tiles (`UNMASKED`)."""
    if UNMASKED:
        return tl.load(at)
    else:
        return tl.load(at, mask=mask, other=0)


@triton.jit
def load_words(
    tile_words,
    step: tl.constexpr,
    state,
    here,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    UNMASKED: tl.constexpr,
):
    """B, C (N, BLOCK) of one step of the tile at tile_words, the same for every channel.

    Each word is stored twice and even and odd lanes read their own copy: that makes the addresses
    contiguous over channels and not over states, so that the compiler keeps a channel in one lane.
    """
    lane = tl.arange(0, BLOCK) % 2
    word = tile_words + (lane[None, :] + (state * 2 + step * (2 * N))[:, None])
    mask = tl.zeros((N, BLOCK), tl.int32) < tl.where(here, 1, 0)
    return unpack(load(word, mask, UNMASKED))


@triton.jit
def load_info(step_info, first, end, T: tl.constexpr, UNMASKED: tl.constexpr):
    """step_info of T steps as scalars. Past the end: 0, or with UNMASKED the last tile again."""
    if UNMASKED:
        first = tl.minimum(first, end - T)
    at = step_info + first
    info = ()
    for i in tl.static_range(T):
        info = info + (load(at + i, first + i < end, UNMASKED),)
    return info


@triton.jit
def row_offset(info, stride, LONG_OFFSETS: tl.constexpr):
    """Element offset of a step's row; 64 bits only where the tensors need them."""
    row = info >> 5
    if LONG_OFFSETS:
        row = row.to(tl.int64)
    return row * stride


@triton.jit
def at_step(channel, d, here):
    """Mask of the channels below d; none of them where there is no step."""
    return channel < tl.where(here, d, 0)


@triton.jit
def load_rows(
    x,
    info,
    stride,
    channel,
    d,
    left,
    T: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """T rows (D,) of x in x's dtype; 0 from step `left` on."""
    tile = ()
    for i in tl.static_range(T):
        at = x + (row_offset(info[i], stride, LONG_OFFSETS) + channel)
        tile = tile + (load(at, at_step(channel, d, left > i), UNMASKED),)
    return tile


@triton.jit
def load_bias(bias, info, d, channel, live, T: tl.constexpr, UNMASKED: tl.constexpr):
    """T rows (D,) of the per-modality bias (m, d)."""
    tile = ()
    for i in tl.static_range(T):
        at = bias + (((info[i] >> 1) & 15) * d + channel)
        tile = tile + (load(at, live, UNMASKED).to(tl.float32),)
    return tile


@triton.jit
def step_size(
    delta, bias, here, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr, UNMASKED: tl.constexpr
):
    """delta after bias and softplus; 0 where there is no step, which leaves the state alone."""
    x = delta.to(tl.float32)
    if HAS_BIAS:
        x = x + bias
    if SOFTPLUS:
        x = softplus(x)
    if not UNMASKED:
        x = tl.where(here, x, 0.0)
    return x


@triton.jit
def at_start(value, info, HAS_RESETS: tl.constexpr):
    """The value; 0 where a document starts, also where it is not finite."""
    if HAS_RESETS:
        return tl.where((info & 1) != 0, 0.0, value)
    else:
        return value


@triton.jit
def existing(value, mask, UNMASKED: tl.constexpr):
    """The value; 0 in states and channels that only fill a tile, where an infinite step, B or C
    would make NaN of zeros."""
    if UNMASKED:
        return value
    else:
        return tl.where(mask, value, 0.0)


@triton.jit
def next_state(h, a, x, in_b, both, info, HAS_RESETS: tl.constexpr, UNMASKED: tl.constexpr):
    """The state (N, D) after a step with decay a and input x (D,)."""
    return existing(a * at_start(h, info, HAS_RESETS) + x[None, :] * in_b, both, UNMASKED)


@triton.jit
def store(at, value, mask, UNMASKED: tl.constexpr):
    """A store that is masked unless the shapes are multiples of the tiles (`UNMASKED`)."""
    if UNMASKED:
        tl.store(at, value)
    else:
        tl.store(at, value, mask=mask)


@triton.jit
def advance(
    h,
    u,
    delta,
    bias,
    step_info,
    words,
    heads,
    decay,
    channel,
    state,
    live,
    both,
    first,
    end,
    stop,
    d,
    n,
    stride_u,
    stride_delta,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    T: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    KEEP: tl.constexpr,
    UNMASKED: tl.constexpr,
    LONG_OFFSETS: tl.constexpr,
):
    """The state after the tiles that start in [first, stop), without outputs.

    With KEEP the state before each tile goes to heads (tiles, n, d), the one after the last too.

    Returns:
        the state (N, D), and the sum of the step sizes (D,): infinite where there was a reset.
    """
    total = tl.zeros((BLOCK,), tl.float32)
    to = heads + state[:, None] * d + channel[None, :]
    if KEEP:
        tl.store(to, h, mask=both)
    info = load_info(step_info, first, end, T, UNMASKED)
    tile_u = load_rows(u, info, stride_u, channel, d, end - first, T, UNMASKED, LONG_OFFSETS)
    tile_delta = load_rows(
        delta, info, stride_delta, channel, d, end - first, T, UNMASKED, LONG_OFFSETS
    )
    next_info = load_info(step_info, first + T, end, T, UNMASKED)
    for t in range(first, stop, T):
        left = end - t - T
        next_u = load_rows(u, next_info, stride_u, channel, d, left, T, UNMASKED, LONG_OFFSETS)
        next_delta = load_rows(
            delta, next_info, stride_delta, channel, d, left, T, UNMASKED, LONG_OFFSETS
        )
        later_info = load_info(step_info, t + 2 * T, end, T, UNMASKED)
        biases = tile_u
        if HAS_BIAS:
            biases = load_bias(bias, info, d, channel, live, T, UNMASKED)
        tile_words = words + t * (2 * N)
        for i in tl.static_range(T):
            here = t + i < end
            dt = step_size(tile_delta[i], biases[i], here, HAS_BIAS, SOFTPLUS, UNMASKED)
            in_b, _ = load_words(tile_words, i, state, here, N, BLOCK, UNMASKED)
            a = tl.exp2(dt[None, :] * decay)
            x = dt * tile_u[i].to(tl.float32)
            h = next_state(h, a, x, in_b, both, info[i], HAS_RESETS, UNMASKED)
            if HAS_RESETS:
                total = tl.where((info[i] & 1) != 0, float("inf"), total)
            total += dt
        if KEEP:
            to += n * d
            tl.store(to, h, mask=both)
        info = next_info
        next_info = later_info
        tile_u = next_u
        tile_delta = next_delta
    return h, total
