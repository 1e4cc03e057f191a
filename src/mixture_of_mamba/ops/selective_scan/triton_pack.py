"""Triton kernels around the scan: B and C into packed words, partial sums into dB and dC."""

# The language of kernels has no Python types.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["pack_kernel", "reduce_kernel"]


@triton.jit
def pack_kernel(
    B,
    C,
    rows,
    modality,
    resets,
    packed,
    step_info,
    positions,
    n,
    stride_b,
    stride_c,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    HAS_MODALITY: tl.constexpr,
    HAS_RESETS: tl.constexpr,
):
    """B, C (r, n) -> packed (b * t, N, 2, 2) float32: pairs (B, C) in time order, twice, padded
    with zeros; and step_info (b * t,)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < positions
    row = at
    if HAS_ROWS:
        row = tl.load(rows + at, mask=live, other=0)
    info = row << 5
    if HAS_MODALITY:
        info = info | (tl.load(modality + at, mask=live, other=0) << 1)
    if HAS_RESETS:
        info = info | tl.load(resets + at, mask=live, other=0).to(tl.int32)
    tl.store(step_info + at, info, mask=live)
    state = tl.arange(0, N)
    mask = live[:, None] & (state < n)[None, :]
    from_row = row.to(tl.int64)[:, None]
    b = tl.load(B + from_row * stride_b + state[None, :], mask=mask, other=0.0).to(tl.float32)
    c = tl.load(C + from_row * stride_c + state[None, :], mask=mask, other=0.0).to(tl.float32)
    word = tl.arange(0, 2 * N)
    to = packed + at.to(tl.int64)[:, None] * (4 * N) + (word + word // 2 * 2)[None, :]
    pairs = tl.interleave(b, c)
    tl.store(to, pairs, mask=live[:, None])
    tl.store(to + 2, pairs, mask=live[:, None])


@triton.jit
def reduce_kernel(
    partial,
    step_info,
    dB,
    dC,
    positions,
    parts,
    n,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum of partial (parts, b * t, 2, N) over parts, in a fixed order -> dB, dC (r, n)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < positions
    both = tl.arange(0, 2 * N)
    total = tl.zeros((BLOCK, 2 * N), tl.float32)
    where = partial + at.to(tl.int64)[:, None] * (2 * N) + both[None, :]
    for _ in range(parts):
        total += tl.load(where, mask=live[:, None], other=0.0)
        where += tl.cast(positions, tl.int64) * (2 * N)
    row = (tl.load(step_info + at, mask=live, other=0) >> 5).to(tl.int64)
    state = both % N
    to = row[:, None] * n + state[None, :]
    mask = live[:, None] & (state < n)[None, :]
    tl.store(dB + to, total.to(dB.dtype.element_ty), mask=mask & (both < N)[None, :])
    tl.store(dC + to, total.to(dC.dtype.element_ty), mask=mask & (both >= N)[None, :])
