"""Cases for the scan and the convolution: random inputs, and every gradient of a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mixture_of_mamba.ops import Routing

__all__ = [
    "FLOAT32",
    "FLOAT64",
    "LIMITS",
    "Case",
    "assert_close",
    "conv_inputs",
    "gradients",
    "scan_inputs",
]

#: Relative errors of float32 against float64, of activations and of parameters' gradients.
ACTIVATIONS, PARAMETERS = 1e-6, 3e-6
LIMITS = {
    "default": ACTIVATIONS,
    **dict.fromkeys(("dA", "dD", "ddelta_bias"), PARAMETERS),
}
FLOAT64 = {"default": torch.float64}
FLOAT32 = {"default": torch.float32}


@dataclass(frozen=True)
class Case:
    """One shape and one choice of what is present."""

    batch: int = 2
    length: int = 37
    d: int = 24
    n: int = 16
    modalities: int = 1  # > 1: rows in a shuffled order and one delta bias per modality
    absent: int | None = None  # a modality without tokens
    documents: bool = False
    state: bool = False
    gate: bool = True
    skip: bool = True
    softplus: bool = True
    bias: bool = True
    strided: bool = False  # rows are slices of wider rows; nothing else is contiguous either
    taps: int = 4
    silu: bool = True

    def routing(self, seed: int = 0) -> Routing:
        generator = torch.Generator().manual_seed(seed)
        shape = (self.batch, self.length)
        if self.absent is None:
            ids = torch.randint(self.modalities, shape, generator=generator)
        else:
            ids = torch.randint(self.modalities - 1, shape, generator=generator)
            ids += ids >= self.absent
        if self.strided:
            ids = ids.int().t().contiguous().t()
        documents = None
        if self.documents:
            documents = (torch.rand(shape, generator=generator) < 0.15).cumsum(1)
        return Routing.build(ids, self.modalities, documents)


def scan_inputs(case: Case, seed: int = 0) -> dict[str, Tensor | None]:
    """float64 tensors (with values of float32) by the names of `selective_scan`, in row order."""
    g = torch.Generator().manual_seed(seed)
    rows, d, n = case.batch * case.length, case.d, case.n

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float32).double()

    step = normal(rows, d) - 2.0
    if not case.softplus:
        step = step.float().exp().double()
    return {
        "u": normal(rows, d),
        "delta": step,
        "A": -torch.exp(0.5 * normal(d, n)).float().double() * torch.arange(1, n + 1).clamp(max=16),
        "B": normal(rows, n),
        "C": normal(rows, n),
        "D": normal(d) if case.skip else None,
        "z": normal(rows, d) if case.gate else None,
        "delta_bias": 0.3 * normal(case.modalities, d) if case.bias else None,
        "state": normal(case.batch, d, n) if case.state else None,
    }


def conv_inputs(case: Case, seed: int = 0) -> dict[str, Tensor | None]:
    """float64 tensors by the names of `causal_conv1d`, in row order."""
    g = torch.Generator().manual_seed(seed)
    d, k = case.d, case.taps

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float32).double()

    return {
        "x": normal(case.batch * case.length, d),
        "weight": normal(d, k) / k**0.5,
        "bias": normal(d) if case.bias else None,
        "state": normal(case.batch, k - 1, d) if case.state else None,
    }


def gradients(
    op: Callable[..., tuple[Tensor, Tensor]],
    inputs: dict[str, Tensor | None],
    dtypes: dict[str, torch.dtype],
    *,
    strided: bool = False,
    final: bool = True,
    **options: object,
) -> dict[str, Tensor]:
    """Outputs ("y", "final") and gradients by input name, of one call with fixed random cotangents.

    Args:
        inputs: float64 tensors; each is cast to `dtypes[name]`, or to `dtypes["default"]`.
        strided: pass rows as slices of wider rows, and of the others every second value.
        final: differentiate the final state too.
    """
    leaves = {
        name: x.to(dtypes.get(name, dtypes["default"])).requires_grad_()
        for name, x in ((name, x) for name, x in inputs.items() if x is not None)
    }
    rows = inputs["u" if "u" in inputs else "x"].shape[0]  # type: ignore[union-attr]

    def widen(x: Tensor) -> Tensor:
        if not strided:
            return x
        if x.ndim != 2 or x.shape[0] != rows:
            return torch.stack([x, torch.full_like(x, 7.0)], -1)[..., 0]
        return F.pad(x, (3, 5), value=7.0)[:, 3 : 3 + x.shape[1]]

    passed = {name: widen(x) for name, x in leaves.items()}
    y, state = op(**{name: passed.get(name) for name in inputs}, **options)
    g = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=g, dtype=torch.float64)
    dstate = torch.randn(state.shape, generator=g, dtype=torch.float64)
    outputs, cotangents = [y], [dy.to(y)]
    if final:
        outputs, cotangents = [y, state], [dy.to(y), dstate.to(state)]
    if y.requires_grad:
        found = torch.autograd.grad(
            outputs, list(leaves.values()), cotangents, materialize_grads=True
        )
    else:
        found = [torch.zeros_like(x) for x in leaves.values()]
    return {
        "y": y.detach(),
        "final": state.detach(),
        **{f"d{name}": g for name, g in zip(leaves, found, strict=True)},
    }


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], limits: dict[str, float]
) -> None:
    """Largest difference of each tensor, relative to its largest value, within its limit."""
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        if not value.numel():
            continue
        scale = value.abs().max().clamp(min=1e-30)
        error = float((found[name].double() - value).abs().max() / scale)
        limit = limits.get(name, limits["default"])
        assert error <= limit, f"{name}: relative error {error:.2e} > {limit:.0e}"
