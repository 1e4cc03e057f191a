"""Floating-point operations of the ops, from their sizes alone.

Apart from the ops themselves, so that a report counts them without torch.
"""

from __future__ import annotations

__all__ = ["conv_flops", "scan_flops"]


def conv_flops(rows: int, d: int, k: int, *, silu: bool = True) -> int:
    """One forward convolution: a multiply-add per tap (the bias rides on the first), and 2 for
    SiLU."""
    return rows * d * (2 * k + 2 * silu)


def scan_flops(rows: int, d: int, n: int, *, skip: bool = True, gate: bool = True) -> int:
    """One forward scan.

    Per row, channel and state: delta*A, exp, decay*h, (delta*u)*B, +, *C, + (7); per row and
    channel: delta*u, and 2 each for the skip and the gate where present.
    """
    return rows * d * (7 * n + 1 + 2 * skip + 2 * gate)
