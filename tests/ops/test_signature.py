"""An operator's arguments and its input record are one and the same."""

from __future__ import annotations

import pytest
import torch

from mixture_of_mamba.ops import Routing
from mixture_of_mamba.ops.causal_conv1d.inputs import ConvGrads, ConvInputs
from mixture_of_mamba.ops.causal_conv1d.op import CALL as CONV
from mixture_of_mamba.ops.mamba_block.op import CALL as BLOCK
from mixture_of_mamba.ops.modality_linear.op import CALL as LINEAR
from mixture_of_mamba.ops.selective_scan.op import CALL as SCAN
from mixture_of_mamba.ops.signature import arguments

INPUTS = ConvInputs(
    x=torch.randn(6, 3),
    weight=torch.randn(3, 4),
    bias=None,
    state=torch.randn(2, 3, 3),
    row_index=Routing.build(torch.tensor([[0, 1, 0], [1, 1, 0]]), 2),
    silu=True,
)


@pytest.mark.parametrize("call", [CONV, SCAN, BLOCK, LINEAR])
def test_names_of_arguments_are_distinct(call) -> None:  # type: ignore[no-untyped-def]
    names = [parameter.split()[1] for parameter in call.schema.split(", ")]
    assert len(names) == len(set(names))


def test_the_record_comes_back_from_its_arguments() -> None:
    values = arguments(INPUTS)
    assert all(a is b for a, b in zip(arguments(CONV.bind(values)), values, strict=True))
    assert CONV.bind(values).row_index.arguments == INPUTS.row_index.arguments


def test_gradients_belong_to_the_arguments_of_their_names() -> None:
    values = arguments(INPUTS)
    grads = ConvGrads(*(torch.full((1,), float(i)) for i in range(4)))
    found = CONV.bind(CONV.by_argument(CONV.dense(grads, INPUTS.x), values))
    assert (found.x, found.weight, found.state) == (grads.x, grads.weight, grads.state)
    assert found.bias is None and found.silu is None  # absent, and no tensor


def test_absent_gradients_are_empty_tensors() -> None:
    shapes = [tuple(g.shape) for g in CONV.fake(arguments(INPUTS), INPUTS.x)]
    assert shapes == [(6, 3), (3, 4), (0,), (2, 3, 3)]
