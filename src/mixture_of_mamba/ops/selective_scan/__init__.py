"""Selective scan: the recurrence of Mamba-1 with states, document resets and a row index."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ...flop_formulas import scan_flops
from ..derivatives import with_derivatives
from ..dispatch import choose, preferred
from ..routing import Routing, RowIndex, document_starts
from ..signature import arguments
from .inputs import ScanGrads, ScanInputs
from .op import scan
from .reference import selective_scan_reference

__all__ = ["ScanGrads", "ScanInputs", "selective_scan", "selective_scan_reference"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    state: Tensor | None = None,
    document_ids: Tensor | None = None,
    routing: Routing | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Input-dependent linear recurrence (arXiv 2312.00752); the state is float32 on every backend.

        h[t] = exp(delta[t] * A) * h[t-1] + delta[t] * B[t] * u[t]
        y[t] = (<C[t], h[t]> + D * u[t]) * silu(z[t])

    Args:
        u: (b, t, d) input; with `routing`, (r, d) in row order, as are delta, B, C and z.
        delta: (b, t, d) step size, > 0 (after bias and softplus, unless these are given).
        A: (d, n) decay rate, < 0, float32 (float64 where u is float64).
        B, C: (b, t, n) input and output maps.
        D: (d,) skip weight.
        z: (b, t, d) gate.
        delta_bias: (d,) or, one per modality, (m, d); added to delta.
        delta_softplus: apply softplus to delta (+ bias).
        state: (b, d, n) initial state in A's dtype; zeros by default.
        document_ids: (b, t); the state is zeroed where they change along t.
        routing: row order, resets and modality of each token, made once per batch.
        backend: "triton", "cpu", "torch", "reference", or None for the best that can serve.

    Returns:
        y like u, and the final state (b, d, n) in A's dtype.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit together.
        BackendError: the named backend cannot serve this device, dtype or shape.
    """
    inputs = _inputs(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, state, document_ids, routing
    )
    values = (u, delta, A, B, C, D, z, delta_bias, state)
    backend = with_derivatives("selective_scan", preferred("selective_scan", backend), *values)
    if backend == "reference":
        y, final = selective_scan_reference(inputs)
    else:
        if backend:  # fail here, with a plain traceback, and not inside the graph
            choose("selective_scan", inputs, backend)
        record = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in values)
        y, final, _ = scan(*arguments(inputs), backend, record)
    return (y.view(u.shape) if routing is None else y), final


def _inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
    state: Tensor | None,
    document_ids: Tensor | None,
    routing: Routing | None,
) -> ScanInputs:
    """Check what a caller can get wrong and bring it to rows."""
    if routing is None and u.ndim != 3:
        raise ValueError(f"u has shape {tuple(u.shape)}; (batch, time, channels) is needed")
    if routing is not None and u.ndim != 2:
        raise ValueError(f"u has shape {tuple(u.shape)}; with routing, (rows, channels) is needed")
    if routing is not None and document_ids is not None:
        raise ValueError("give document_ids to Routing.build, or to selective_scan, not to both")
    if A.ndim != 2 or A.shape[0] != u.shape[-1]:
        raise ValueError(f"A has shape {tuple(A.shape)}; ({u.shape[-1]}, n) is needed for this u")
    if A.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"A is {A.dtype}; the decay rate is float32 (or float64) on every backend")
    b, t = (u.shape[0], u.shape[1]) if routing is None else (routing.batch, routing.length)
    lead = u.shape[:-1]
    d, n = A.shape
    if routing is not None and lead != (b * t,):
        raise ValueError(f"u has {lead[0]} rows, but the routing has {b} x {t} positions")
    if delta_bias is not None and delta_bias.ndim == 1:
        delta_bias = delta_bias[None]
    wanted = {
        "delta": (delta, (*lead, d)),
        "B": (B, (*lead, n)),
        "C": (C, (*lead, n)),
        "D": (D, (d,)),
        "z": (z, (*lead, d)),
        "state": (state, (b, d, n)),
    }
    for name, (x, shape) in wanted.items():
        if x is not None and tuple(x.shape) != tuple(shape):
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, but u {tuple(u.shape)} and A {tuple(A.shape)} "
                f"need {tuple(shape)}"
            )
        if x is not None and x.device != u.device:
            raise ValueError(f"{name} is on {x.device}, but u is on {u.device}; use one device")
    if A.device != u.device:
        raise ValueError(f"A is on {A.device}, but u is on {u.device}; use one device")
    _check_dtypes(u, A, {"delta": delta, "B": B, "C": C, "z": z})
    if delta_bias is not None:
        m = delta_bias.shape[0]
        if delta_bias.shape[1:] != (d,):
            raise ValueError(f"delta_bias has shape {tuple(delta_bias.shape)}; (m, {d}) is needed")
        if m > 1:
            if routing is None:
                raise ValueError(f"delta_bias has {m} modalities; give the routing of the tokens")
            if m != routing.n_modalities:
                raise ValueError(
                    f"delta_bias has {m} modalities, but the routing has {routing.n_modalities}"
                )
    index: RowIndex
    if routing is not None:
        index = routing
    else:
        index = RowIndex(None, None, document_starts(document_ids, torch.Size((b, t))), b, t)
        flat = (x if x is None else x.reshape(b * t, x.shape[-1]) for x in (u, delta, B, C, z))
        u, delta, B, C, z = flat  # type: ignore[assignment]
    if state is not None:
        state = state.to(A.dtype)
    return ScanInputs(u, delta, A, B, C, D, z, delta_bias, state, index, softplus)


def _check_dtypes(u: Tensor, A: Tensor, others: dict[str, Tensor | None]) -> None:
    if not u.is_floating_point():
        raise TypeError(f"u is {u.dtype}; a floating dtype is needed")
    if (u.dtype == torch.float64) != (A.dtype == torch.float64):
        raise TypeError(f"u is {u.dtype} and A is {A.dtype}; float64 goes with float64 only")
    for name, x in others.items():
        if x is not None and x.dtype != u.dtype:
            raise TypeError(f"{name} is {x.dtype}, but u is {u.dtype}; use one dtype for both")


@register_flop_formula(torch.ops.mixture_of_mamba.selective_scan)
def _forward_flops(u, delta, A, B, C, D, z, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    return scan_flops(u[0], u[1], A[1], skip=D is not None, gate=z is not None)


@register_flop_formula(torch.ops.mixture_of_mamba.selective_scan_backward)
def _backward_flops(dy, dfinal, checkpoints, *args, **kwargs) -> int:  # type: ignore[no-untyped-def]
    # Counted as twice the forward, like every other op; the recomputation is not useful work.
    return 2 * _forward_flops(*args)
