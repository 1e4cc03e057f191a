"""One block on the CPU without a copy: every product and kernel writes where the next one reads.

The composition is that of layers.MambaBlock. What a graph of single ops cannot avoid is gone:
joining the gradients of `x` and `z`, and those of dt, B and C, in new buffers; adding the two
gradients of the convolution's output; and a dozen passes of the norm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..causal_conv1d import cpu as conv
from ..causal_conv1d.inputs import ConvInputs
from ..modality_linear import loop
from ..modality_linear.inputs import LinearInputs
from ..selective_scan import cpu as scan
from ..selective_scan.inputs import ScanGrads, ScanInputs
from .inputs import BlockGrads, BlockInputs, Saved, Weights
from .norm import norm_backward, norm_forward

__all__ = ["backward", "forward"]


def forward(inputs: BlockInputs, save: bool) -> tuple[Tensor, Tensor, Tensor, Saved]:
    """-> x + mixer(norm(x)), final convolution and scan states, what the backward needs."""
    w, d = inputs.weights, inputs.weights.D.shape[0]
    h, scale = norm_forward(inputs.x, w.norm, inputs.eps)
    xz = loop.forward(_linear(inputs, h, w.in_weight, w.in_bias))
    u, conv_final = conv.forward(_conv(inputs, xz[:, :d]))
    dt_B_C = loop.forward(_linear(inputs, u, w.x_weight))
    rank = w.dt_weight.shape[2]
    delta = loop.forward(_linear(inputs, dt_B_C[:, :rank], w.dt_weight))
    y, ssm_final, checkpoints = scan.forward(_scan(inputs, u, delta, dt_B_C, xz), save)
    out = loop.forward(_linear(inputs, y, w.out_weight, w.out_bias))
    saved = Saved(h, scale, xz, u, dt_B_C, delta, y, checkpoints)
    return out.add_(inputs.x), conv_final, ssm_final, saved


def backward(
    inputs: BlockInputs,
    saved: Saved,
    dout: Tensor,
    dconv_final: Tensor | None,
    dssm_final: Tensor | None,
) -> BlockGrads:
    """Gradients of x, of every weight, of the convolution's and of the scan's initial state."""
    h, scale, xz, u, dt_B_C, delta, y, checkpoints = saved
    w = inputs.weights
    d, rank, n = w.D.shape[0], w.dt_weight.shape[2], w.A_log.shape[1]
    biased = (True, True, w.out_bias is not None)
    out = loop.backward(_linear(inputs, y, w.out_weight, w.out_bias), dout, biased)
    dxz, ddt_B_C = torch.empty_like(xz), torch.empty_like(dt_B_C)
    du, ddelta = torch.empty_like(u), torch.empty_like(delta)
    scanned = _scan(inputs, u, delta, dt_B_C, xz)
    shapes = (w.A_log.shape, w.D.shape, w.dt_bias.shape, (inputs.row_index.batch, d, n))
    dA, dD, dbias, dstate = (torch.empty(shape, dtype=torch.float32) for shape in shapes)
    dssm = None if inputs.ssm_state is None else dstate
    scan.backward_into(
        scanned,
        checkpoints.view(scan.checkpoint_shape(scanned)),
        _given(out.x),
        dssm_final,
        ScanGrads(
            u=du,
            delta=ddelta,
            A=dA,
            B=ddt_B_C[:, rank : rank + n],
            C=ddt_B_C[:, rank + n :],
            D=dD,
            z=dxz[:, d:],
            delta_bias=dbias,
            state=dssm,
        ),
    )
    dt = dt_B_C[:, :rank]
    ddt_weight = _backward_into(_linear(inputs, dt, w.dt_weight), ddelta, ddt_B_C[:, :rank])
    dx_weight = _backward_into(_linear(inputs, u, w.x_weight), ddt_B_C, du, add=True)
    dconv = conv.backward_into(_conv(inputs, xz[:, :d]), du, dconv_final, dxz[:, :d])
    biased = (True, True, w.in_bias is not None)
    in_ = loop.backward(_linear(inputs, h, w.in_weight, w.in_bias), dxz, biased)
    dx, dnorm = norm_backward(_given(in_.x), inputs.x, w.norm, scale, dout)
    weights = Weights(
        norm=dnorm,
        in_weight=_given(in_.weight),
        in_bias=in_.bias,
        conv_weight=dconv.weight,
        conv_bias=dconv.bias,
        x_weight=dx_weight,
        dt_weight=ddt_weight,
        dt_bias=dbias.to(w.dt_bias.dtype),
        A_log=(dA * scanned.A).to(w.A_log.dtype),  # A = -exp(A_log) is its own derivative
        D=dD.to(w.D.dtype),
        out_weight=_given(out.weight),
        out_bias=out.bias,
    )
    return BlockGrads(dx, weights, dconv.state, dssm)


def _given(gradient: Tensor | None) -> Tensor:
    assert gradient is not None  # it was asked for
    return gradient


def _linear(
    inputs: BlockInputs, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> LinearInputs:
    """The projection of all rows by one expert, or of each modality's rows by its own."""
    offsets = inputs.offsets
    if weight.shape[0] == 1:
        offsets = torch.tensor([x.shape[0]], dtype=torch.int32)
    return LinearInputs(x, weight, bias, offsets, offsets)


def _conv(inputs: BlockInputs, x: Tensor) -> ConvInputs:
    w = inputs.weights
    return ConvInputs(x, w.conv_weight, w.conv_bias, inputs.conv_state, inputs.row_index, silu=True)


def _scan(inputs: BlockInputs, u: Tensor, delta: Tensor, dt_B_C: Tensor, xz: Tensor) -> ScanInputs:
    w = inputs.weights
    n, d, rank = w.A_log.shape[1], w.D.shape[0], w.dt_weight.shape[2]
    return ScanInputs(
        u=u,
        delta=delta,
        A=-torch.exp(w.A_log.float()),
        B=dt_B_C[:, rank : rank + n],
        C=dt_B_C[:, rank + n :],
        D=w.D,
        z=xz[:, d:],
        delta_bias=w.dt_bias,
        state=inputs.ssm_state,
        row_index=inputs.row_index,
        softplus=True,
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
