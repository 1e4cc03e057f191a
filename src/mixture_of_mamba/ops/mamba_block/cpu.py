"""One block on the CPU without a copy: every product and kernel writes where the next one reads.

The composition is that of layers.MambaBlock. What a graph of single ops cannot avoid is gone:
joining the gradients of `x` and `z`, and those of the low rank, B and C, in new buffers; adding the
two gradients of the convolution's output; and a dozen passes of the norm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..causal_conv1d import cpu as conv
from ..causal_conv1d.inputs import ConvInputs
from ..modality_linear import loop
from ..modality_linear.inputs import LinearInputs
from ..selective_scan import cpu as scan
from ..selective_scan.inputs import ScanGrads, ScanInputs
from .norm import norm_backward, norm_forward

__all__ = ["Plan", "Saved", "Weights", "backward", "forward"]


class Weights(NamedTuple):
    """Parameters of a block: projections (m or 1, out, in), conv (d, k), A_log (d, n)."""

    norm: Tensor
    in_weight: Tensor
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_weight: Tensor
    dt_weight: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_weight: Tensor
    out_bias: Tensor | None


class Plan(NamedTuple):
    """Where the rows stand; see Routing."""

    rows: Tensor | None
    modality: Tensor
    resets: Tensor | None
    offsets: Tensor
    batch: int
    length: int


class Saved(NamedTuple):
    """What the backward reads: normed rows, 1/rms, [x | z], conv's output, [low | B | C], delta,
    the scan's output and checkpoints."""

    h: Tensor
    scale: Tensor
    xz: Tensor
    u: Tensor
    maps: Tensor
    delta: Tensor
    y: Tensor
    checkpoints: Tensor


def forward(
    x: Tensor,
    w: Weights,
    plan: Plan,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    eps: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Saved]:
    """-> x + mixer(norm(x)), final convolution and scan states, what the backward needs."""
    h, scale = norm_forward(x, w.norm, eps)
    xz = loop.forward(_linear(h, w.in_weight, w.in_bias, plan))
    d = w.D.shape[0]
    u, conv_final = conv.forward(_conv(xz[:, :d], w, plan, conv_state))
    maps = loop.forward(_linear(u, w.x_weight, None, plan))
    rank = w.dt_weight.shape[2]
    delta = loop.forward(_linear(maps[:, :rank], w.dt_weight, None, plan))
    inputs = _scan(u, delta, maps, xz, w, plan, ssm_state)
    y, ssm_final, checkpoints = scan.forward(inputs, save)
    out = loop.forward(_linear(y, w.out_weight, w.out_bias, plan))
    saved = Saved(h, scale, xz, u, maps, delta, y, checkpoints)
    return out.add_(x), conv_final, ssm_final, saved


def backward(
    dout: Tensor,
    dconv_final: Tensor | None,
    dssm_final: Tensor | None,
    x: Tensor,
    w: Weights,
    plan: Plan,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    saved: Saved,
) -> tuple[Tensor, Weights, Tensor | None, Tensor | None]:
    """-> gradients of x, of every weight, of the convolution's and of the scan's initial state."""
    h, scale, xz, u, maps, delta, y, checkpoints = saved
    d, rank, n = w.D.shape[0], w.dt_weight.shape[2], w.A_log.shape[1]
    biased = (True, True, w.out_bias is not None)
    dy, dout_weight, dout_bias = loop.backward(
        _linear(y, w.out_weight, w.out_bias, plan), dout, biased
    )
    dxz, dmaps = torch.empty_like(xz), torch.empty_like(maps)
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    inputs = _scan(u, delta, maps, xz, w, plan, ssm_state)
    shapes = (w.A_log.shape, w.D.shape, w.dt_bias.shape, (plan.batch, d, n))
    dA, dD, dbias, dstate = (torch.empty(shape, dtype=torch.float32) for shape in shapes)
    dssm = None if ssm_state is None else dstate
    scan.backward_into(
        inputs,
        checkpoints.view(scan.checkpoint_shape(inputs)),
        _there(dy),
        dssm_final,
        ScanGrads(
            *(du, ddelta, dA, dmaps[:, rank : rank + n], dmaps[:, rank + n :], dD),
            *(dxz[:, d:], dbias, dssm),
        ),
    )
    ddt_weight = _backward_into(
        _linear(maps[:, :rank], w.dt_weight, None, plan), ddelta, dmaps[:, :rank]
    )
    dx_weight = _backward_into(_linear(u, w.x_weight, None, plan), dmaps, du, add=True)
    grads = conv.backward_into(_conv(xz[:, :d], w, plan, conv_state), du, dconv_final, dxz[:, :d])
    biased = (True, True, w.in_bias is not None)
    dh, din_weight, din_bias = loop.backward(_linear(h, w.in_weight, w.in_bias, plan), dxz, biased)
    dx, dnorm = norm_backward(_there(dh), x, w.norm, scale, dout)
    # A = -exp(A_log), so its gradient comes back times A.
    dA_log = (dA * inputs.A).to(w.A_log.dtype)
    return (
        dx,
        Weights(
            norm=dnorm,
            in_weight=_there(din_weight),
            in_bias=din_bias,
            conv_weight=grads.weight,
            conv_bias=grads.bias,
            x_weight=dx_weight,
            dt_weight=ddt_weight,
            dt_bias=dbias.to(w.dt_bias.dtype),
            A_log=dA_log,
            D=dD.to(w.D.dtype),
            out_weight=_there(dout_weight),
            out_bias=dout_bias,
        ),
        grads.state,
        dssm,
    )


def _there(gradient: Tensor | None) -> Tensor:
    assert gradient is not None  # it was asked for
    return gradient


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> LinearInputs:
    """The projection of all rows by one expert, or of each modality's rows by its own."""
    offsets = plan.offsets
    if weight.shape[0] == 1:
        offsets = torch.tensor([x.shape[0]], dtype=torch.int32)
    return LinearInputs(x, weight, bias, offsets, offsets)


def _conv(x: Tensor, w: Weights, plan: Plan, state: Tensor | None) -> ConvInputs:
    return ConvInputs(
        *(x, w.conv_weight, w.conv_bias, plan.rows, plan.resets, state),
        *(plan.batch, plan.length, True),
    )


def _scan(
    u: Tensor, delta: Tensor, maps: Tensor, xz: Tensor, w: Weights, plan: Plan, state: Tensor | None
) -> ScanInputs:
    n, d, rank = w.A_log.shape[1], w.D.shape[0], w.dt_weight.shape[2]
    return ScanInputs(
        u,
        delta,
        -torch.exp(w.A_log.float()),
        maps[:, rank : rank + n],
        maps[:, rank + n :],
        w.D,
        xz[:, d:],
        w.dt_bias,
        plan.rows,
        plan.modality if w.dt_bias.shape[0] > 1 else None,
        plan.resets,
        state,
        plan.batch,
        plan.length,
        True,
    )


def _backward_into(inputs: LinearInputs, dy: Tensor, dx: Tensor, *, add: bool = False) -> Tensor:
    """Write (or add) the gradient of the rows to `dx`; -> gradient of the weight."""
    dw = torch.zeros_like(inputs.weight)
    for m, start, end in loop.slices(inputs):
        grad, rows = dy[start:end], dx[start:end]
        if add:
            rows.addmm_(grad, inputs.weight[m])
        else:
            torch.mm(grad, inputs.weight[m], out=rows)
        loop.weight_gradient(grad, inputs.x[start:end], dw[m])
    return dw
