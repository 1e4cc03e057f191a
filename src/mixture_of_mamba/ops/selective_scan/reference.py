"""The formula, one step at a time, in plain PyTorch; every backend is held to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import ScanInputs

__all__ = ["selective_scan_reference"]


def selective_scan_reference(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Gu & Dao 2023 (arXiv 2312.00752), eq. 2 with the zero-order hold of A and Euler's B:

        h[t] = exp(delta[t] * A) * h[t-1] + delta[t] * B[t] * u[t]
        y[t] = (<C[t], h[t]> + D * u[t]) * silu(z[t])

    Differentiable by plain autograd, any floating dtype, any device.

    Returns:
        y (r, d) in u's dtype, final state (b, d, n) in A's dtype.
    """
    (b, t), resets, dtype = inputs.row_index.shape, inputs.row_index.resets, inputs.A.dtype

    def in_time(x: Tensor) -> Tensor:
        return inputs.row_index.to_time(x.to(dtype))

    u, delta, B, C = (in_time(x) for x in (inputs.u, inputs.delta, inputs.B, inputs.C))
    if inputs.delta_bias is not None:
        bias = inputs.delta_bias.to(dtype)
        rows = inputs.bias_rows
        delta = delta + (bias[0] if rows is None else bias[rows.long()])
    if inputs.softplus:
        delta = F.softplus(delta)
    h = inputs.state
    if h is None:
        h = torch.zeros(b, inputs.d, inputs.n, dtype=dtype, device=u.device)
    ys = []
    for i in range(t):
        if resets is not None:
            h = h.masked_fill(resets[:, i, None, None], 0.0)
        step = delta[:, i, :, None]
        h = torch.exp(step * inputs.A) * h + step * u[:, i, :, None] * B[:, i, None, :]
        ys.append((h * C[:, i, None, :]).sum(-1))
    y = torch.stack(ys, 1) if ys else u.new_zeros(b, 0, inputs.d)
    if inputs.D is not None:
        y = y + inputs.D.to(dtype) * u
    if inputs.z is not None:
        y = y * F.silu(in_time(inputs.z))
    return inputs.row_index.to_rows(y).to(inputs.u.dtype), h
