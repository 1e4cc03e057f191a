"""What the convolution's Triton kernels share: places, taps, and the window of the last inputs."""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["load_bias", "load_taps", "place", "push", "step_fresh", "step_row", "window_before"]


@triton.jit
def push(window, x, fresh):
    """The window without its oldest and with x; what was in it is dropped where `fresh`."""
    out = ()
    for j in tl.static_range(1, len(window)):
        out = out + (tl.where(fresh, 0.0, window[j]),)
    return out + (x,)


@triton.jit
def step_row(rows, position, here, HAS_ROWS: tl.constexpr):
    """Row of a position (a scalar) as int64."""
    if HAS_ROWS:
        return tl.load(rows + position, mask=here, other=0).to(tl.int64)
    else:
        return position.to(tl.int64)


@triton.jit
def step_fresh(resets, position, here, HAS_RESETS: tl.constexpr):
    """Whether a document starts at a position."""
    if HAS_RESETS:
        return tl.load(resets + position, mask=here, other=0) != 0
    else:
        return False


@triton.jit
def window_before(
    x,
    state,
    rows,
    resets,
    sequence,
    t,
    d,
    stride_x,
    channel,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
    HAS_STATE: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_RESETS: tl.constexpr,
    length,
):
    """The K-1 inputs before step t of a sequence, oldest first; from the state where t is early."""
    window = ()
    for _ in tl.static_range(K - 1):
        window = window + (tl.zeros((BLOCK,), tl.float32),)
    for j in tl.static_range(K - 1):
        s = t - (K - 1) + j
        inside = s >= 0
        position = sequence * length + s
        row = step_row(rows, position, inside, HAS_ROWS)
        mask = channel < tl.where(inside, d, 0)
        value = tl.load(x + row * stride_x + channel, mask=mask, other=0.0).to(tl.float32)
        if HAS_STATE:
            before = state + ((sequence * (K - 1) + s + (K - 1)).to(tl.int64) * d + channel)
            mask = channel < tl.where(inside, 0, d)
            value += tl.load(before, mask=mask, other=0.0).to(tl.float32)
        fresh = step_fresh(resets, position, inside, HAS_RESETS)
        window = push(window, value, fresh)
    return window


@triton.jit
def place(length, BLOCK: tl.constexpr, CHUNK: tl.constexpr):
    """The program's channels, its sequence, and its steps [first, end)."""
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(2) * CHUNK
    return channel, tl.program_id(1), first, tl.minimum(first + CHUNK, length)


@triton.jit
def load_bias(bias, channel, d, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
    """(D,), zeros without a bias."""
    if HAS_BIAS:
        return tl.load(bias + channel, mask=channel < d, other=0.0).to(tl.float32)
    else:
        return tl.zeros((BLOCK,), tl.float32)


@triton.jit
def load_taps(weight, channel, d, K: tl.constexpr):
    """K vectors (D,), the oldest tap first."""
    taps = ()
    for j in tl.static_range(K):
        tap = tl.load(weight + channel * K + j, mask=channel < d, other=0.0)
        taps = taps + (tap.to(tl.float32),)
    return taps
