"""Backend "loop": one library matrix product per modality, written into a slice of the result."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import LinearGrads, LinearInputs

__all__ = ["backward", "forward", "weight_gradient", "why_not"]

#: Most columns of a weight gradient that is computed transposed.
THIN = 64


def why_not(inputs: LinearInputs) -> str | None:
    if inputs.host_offsets is None:
        return "it needs the row counts on the host; build the Routing on the CPU, or pass them"
    return None


def slices(inputs: LinearInputs) -> list[tuple[int, int, int]]:
    """(modality, first row, end row) of the modalities that have rows."""
    assert inputs.host_offsets is not None
    ends = inputs.host_offsets.tolist()
    starts = [0, *ends[:-1]]
    return [(m, a, e) for m, (a, e) in enumerate(zip(starts, ends, strict=True)) if e > a]


def forward(inputs: LinearInputs) -> Tensor:
    y = inputs.x.new_empty(inputs.x.shape[0], inputs.weight.shape[1])
    for m, start, end in slices(inputs):
        rows, expert = inputs.x[start:end], inputs.weight[m].t()
        if inputs.bias is None:
            torch.mm(rows, expert, out=y[start:end])
        else:
            torch.addmm(inputs.bias[m], rows, expert, out=y[start:end])
    return y


def weight_gradient(dy: Tensor, x: Tensor, out: Tensor, thin: int = THIN) -> None:
    """Write dy^T x, (out features, in features), to `out`.

    A result of few columns keeps a matrix library from its best kernels: with the longer side as
    columns and one transposed copy, products of a step projection were 2 to 3 times as fast in
    float32 and 1.2 in bfloat16. Wider ones gain less than the copy costs once they are split.
    """
    rows, columns = out.shape
    if columns <= thin and rows > columns:
        out.copy_(torch.mm(x.t(), dy).t())
    else:
        torch.mm(dy.t(), x, out=out)


def backward(inputs: LinearInputs, dy: Tensor, needs: tuple[bool, bool, bool]) -> LinearGrads:
    """Gradients of x, weight, bias; an expert without rows gets zeros."""
    x, weight = inputs.x, inputs.weight
    dx = x.new_empty(x.shape) if needs[0] else None
    dw = weight.new_zeros(weight.shape) if needs[1] else None
    db = weight.new_zeros(weight.shape[:2]) if needs[2] else None
    for m, start, end in slices(inputs):
        grad = dy[start:end]
        if dx is not None:
            torch.mm(grad, weight[m], out=dx[start:end])
        if dw is not None:
            weight_gradient(grad, x[start:end], dw[m])
        if db is not None:
            torch.sum(grad, 0, out=db[m])
    return LinearGrads(dx, dw, db)
