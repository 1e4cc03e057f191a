"""modality_linear takes one dtype; under autocast it casts what F.linear would and nothing else."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixture_of_mamba.ops import Routing, modality_linear

BACKENDS = (None, "loop", "grouped", "reference")


def _call(
    m: int, x: torch.dtype, weight: torch.dtype, bias: torch.dtype | None, backend: str | None
) -> Tensor:
    routing = Routing.build(torch.tensor([[0, 0, m - 1, m - 1]]), m)
    offset = None if bias is None else torch.ones(m, 5, dtype=bias)
    return modality_linear(
        torch.ones(4, 3, dtype=x),
        torch.ones(m, 5, 3, dtype=weight),
        offset,
        routing=routing,
        backend=backend,
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [1, 2])
def test_mixed_dtypes_are_refused_with_what_to_do(m: int, backend: str | None) -> None:
    message = (
        "weight is torch.float32, but x is torch.bfloat16; modality_linear takes one dtype for x, "
        "weight and bias: cast one of them, or run under torch.autocast"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        _call(m, torch.bfloat16, torch.float32, None, backend)
    with pytest.raises(TypeError, match=r"bias is torch\.float32, but x is torch\.bfloat16"):
        _call(m, torch.bfloat16, torch.bfloat16, torch.float32, backend)
    with pytest.raises(TypeError, match=r"cast one of them \(autocast leaves float64 alone\)"):
        _call(m, torch.float64, torch.float32, None, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [1, 2])
def test_autocast_makes_dtypes_equal(m: int, backend: str | None) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = _call(m, torch.bfloat16, torch.float32, torch.float32, backend)
    assert y.dtype == torch.bfloat16
    assert (y == 4).all()


@pytest.mark.parametrize("m", [1, 2])
def test_autocast_leaves_float64_alone_as_in_a_linear_layer(m: int) -> None:
    double = torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert F.linear(torch.ones(1, 3).double(), torch.ones(5, 3).double()).dtype == double
        assert _call(m, double, double, double, None).dtype == double
        with pytest.raises(TypeError, match="autocast leaves float64 alone"):
            _call(m, double, torch.float32, None, None)


@pytest.mark.parametrize("m", [1, 2])
def test_the_meta_device_has_no_autocast(m: int) -> None:
    routing = Routing.build(torch.tensor([[0, 0, m - 1, m - 1]]), m)
    x, weight = torch.ones(4, 3, device="meta"), torch.ones(m, 5, 3, device="meta")
    assert modality_linear(x, weight, routing=routing).shape == (4, 5)
