"""Backend "cpu": the C++ kernels of csrc/scan_*.cpp, called without the interpreter's lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from .. import native
from ..native_buffers import integers, pointers, put, put_copies, put_index, put_rows
from ..routing import contiguous_rows
from .inputs import ScanGrads, ScanInputs

__all__ = ["backward", "checkpoint_shape", "forward", "why_not"]

#: Steps between two checkpoints, and channels to whose multiple one is padded; csrc/scan.h.
STEPS, CHECKPOINT_LANES = 8, 16
MOST_STATES = 64
DTYPES = (torch.float32, torch.bfloat16)

#: Inputs in rows: name, name of their stride, and number of channels.
_ROWS: tuple[tuple[str, str, Callable[[ScanInputs], int]], ...] = (
    ("u", "u", lambda inputs: inputs.d),
    ("delta", "delta", lambda inputs: inputs.d),
    ("z", "z", lambda inputs: inputs.d),
    ("B", "b", lambda inputs: inputs.n),
    ("C", "c", lambda inputs: inputs.n),
)


class ScanCall(ctypes.Structure):
    """Mirror of the record in csrc/scan.h."""

    _fields_ = [
        *integers("batch length d n modalities softplus bf16 threads"),
        *integers("u_stride delta_stride b_stride c_stride z_stride y_stride"),
        *integers("dy_stride du_stride ddelta_stride db_stride dc_stride dz_stride"),
        *pointers("u delta B C z A D bias rows modality resets state"),
        *pointers("checkpoints y final_state dy dfinal du ddelta dB dC dz"),
        *pointers("dA dD dbias dstate partials parameter_partials"),
    ]


def why_not(inputs: ScanInputs) -> str | None:
    if inputs.device_type != "cpu":
        return f"the tensors are on {inputs.device_type}"
    if inputs.u.dtype not in DTYPES:
        return f"it serves float32 and bfloat16, not {inputs.u.dtype}"
    if not 1 <= inputs.n <= MOST_STATES or inputs.d < 1:
        return f"it serves 1..{MOST_STATES} states and at least one channel, not {inputs.n} states"
    return native.why_not()


def checkpoint_shape(inputs: ScanInputs) -> tuple[int, ...]:
    """(b, chunks, n * padded d): the state that enters each chunk of 8 steps, in the kernels' own
    layout (csrc/scan.h)."""
    batch, length = inputs.row_index.shape
    return (batch, -(-length // STEPS), padded_states(inputs.d, inputs.n))


def padded_states(d: int, n: int) -> int:
    """Floats of one checkpoint: channels are padded to whole 16s."""
    return -(-d // CHECKPOINT_LANES) * CHECKPOINT_LANES * n


def forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    call, keep = _call(inputs)
    dtype, states = inputs.u.dtype, (inputs.row_index.batch, inputs.d, inputs.n)
    y = torch.empty(inputs.u.shape, dtype=dtype)
    final = torch.empty(states, dtype=torch.float32)
    checkpoints = torch.empty(checkpoint_shape(inputs) if save else (0,), dtype=torch.float32)
    put_rows(call, "y", "y_stride", y, dtype, inputs.row_index.size, inputs.d)
    put(call, "final_state", final, torch.float32, *states)
    if save:
        put(call, "checkpoints", checkpoints, torch.float32, *checkpoint_shape(inputs))
    inputs.row_index.check(native.library().mom_scan_forward(ctypes.byref(call)))
    del keep
    return y, final, checkpoints


def backward(
    inputs: ScanInputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None
) -> ScanGrads:
    dtype, rows, n = inputs.u.dtype, inputs.row_index.size, inputs.n

    def like(x: Tensor | None) -> Tensor | None:
        return None if x is None else torch.empty(x.shape, dtype=torch.float32)

    du, ddelta = (torch.empty(rows, inputs.d, dtype=dtype) for _ in range(2))
    dz = None if inputs.z is None else torch.empty(rows, inputs.d, dtype=dtype)
    dB, dC = (torch.empty(rows, n, dtype=dtype) for _ in range(2))
    dA = torch.empty(inputs.d, n, dtype=torch.float32)
    dD, dbias, dstate = like(inputs.D), like(inputs.delta_bias), like(inputs.state)
    backward_into(
        inputs, checkpoints, dy, dfinal, ScanGrads(du, ddelta, dA, dB, dC, dD, dz, dbias, dstate)
    )
    return ScanGrads(
        *(du, ddelta, dA, dB, dC),
        None if inputs.D is None or dD is None else dD.to(inputs.D.dtype),
        dz,
        None if inputs.delta_bias is None or dbias is None else dbias.to(inputs.delta_bias.dtype),
        dstate,
    )


def backward_into(
    inputs: ScanInputs,
    checkpoints: Tensor,
    dy: Tensor,
    dfinal: Tensor | None,
    out: ScanGrads,
) -> None:
    """Write the gradients into `out`: u, delta, B, C, z may be strided rows (slices of a wider
    buffer); A, D, delta_bias and state are float32."""
    call, keep = _call(inputs)
    library = native.library()
    dtype, wide = inputs.u.dtype, torch.float32
    rows, d, n = inputs.row_index.size, inputs.d, inputs.n
    dy = contiguous_rows(dy)
    put_rows(call, "dy", "dy_stride", dy, dtype, rows, d)
    for name, stride, width in _ROWS:
        if (x := getattr(out, name)) is not None:
            put_rows(call, f"d{name}", f"d{stride}_stride", x, dtype, rows, width(inputs))
    if dfinal is not None:
        dfinal = dfinal.to(wide).contiguous()
    put(call, "dfinal", dfinal, wide, inputs.row_index.batch, d, n)
    put(call, "checkpoints", checkpoints, wide, *checkpoint_shape(inputs))
    library.mom_scan_planes.restype = ctypes.c_int64
    planes = library.mom_scan_planes(ctypes.byref(call))
    lanes = library.mom_vector_lanes()
    partials = (planes if planes > 1 else 0, rows, 2, n)
    sums = (inputs.row_index.batch, n + 1 + call.modalities, -(-d // lanes) * lanes)
    scratch = torch.empty(partials, dtype=wide), torch.empty(sums, dtype=torch.float64)
    put(call, "partials", scratch[0], wide, *partials)
    put(call, "parameter_partials", scratch[1], torch.float64, *sums)
    put(call, "dA", out.A, wide, d, n)
    put(call, "dD", out.D, wide, d)
    put(call, "dbias", out.delta_bias, wide, call.modalities, d)
    put(call, "dstate", out.state, wide, inputs.row_index.batch, d, n)
    inputs.row_index.check(library.mom_scan_backward(ctypes.byref(call)))
    del keep


def _call(inputs: ScanInputs) -> tuple[ScanCall, list[Tensor]]:
    """The record with all inputs, and the tensors that must outlive the call."""
    bias = inputs.delta_bias
    call = ScanCall(
        d=inputs.d,
        n=inputs.n,
        modalities=1 if bias is None else bias.shape[0],
        softplus=inputs.softplus,
        bf16=inputs.u.dtype == torch.bfloat16,
        threads=native.threads(inputs.u.numel() * inputs.n // 4),
    )
    index, wide, d, n = inputs.row_index, torch.float32, inputs.d, inputs.n
    keep = []
    for name, stride, width in _ROWS:
        if (x := getattr(inputs, name)) is not None:
            keep.append(contiguous_rows(x))
            shape = (index.size, width(inputs))
            put_rows(call, name, f"{stride}_stride", keep[-1], inputs.u.dtype, *shape)
    others = put_copies(
        call,
        (
            ("A", inputs.A, wide, (d, n)),
            ("D", None if inputs.D is None else inputs.D.float(), wide, (d,)),
            ("bias", None if bias is None else bias.float(), wide, (call.modalities, d)),
            ("state", inputs.state, wide, (index.batch, d, n)),
        ),
    )
    return call, [*keep, *others, *put_index(call, index, inputs.bias_rows)]
