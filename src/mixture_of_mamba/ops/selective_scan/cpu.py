"""Backend "cpu": the C++ kernels of csrc/scan_*.cpp, called without the interpreter's lock."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .. import native
from .inputs import ScanGrads, ScanInputs

__all__ = ["backward", "checkpoint_shape", "forward", "why_not"]

STEPS = 8  # between two checkpoints; csrc/scan.h
CHECKPOINT_LANES = 16
MOST_STATES = 64
DTYPES = (torch.float32, torch.bfloat16)

_INTEGERS = (
    *("batch", "length", "d", "n", "modalities", "softplus", "bf16", "threads"),
    *("u_stride", "delta_stride", "b_stride", "c_stride", "z_stride", "y_stride"),
    *("dy_stride", "du_stride", "ddelta_stride", "db_stride", "dc_stride", "dz_stride"),
)
_POINTERS = (
    *("u", "delta", "B", "C", "z", "A", "D", "bias", "rows", "modality", "resets", "state"),
    *("checkpoints", "y", "final_state", "dy", "dfinal", "du", "ddelta", "dB", "dC", "dz"),
    *("dA", "dD", "dbias", "dstate", "partials", "parameter_partials"),
)


class ScanCall(ctypes.Structure):
    """Mirror of the record in csrc/scan.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _INTEGERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
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
    return (inputs.batch, -(-inputs.length // STEPS), padded_states(inputs.d, inputs.n))


def padded_states(d: int, n: int) -> int:
    """Floats of one checkpoint: channels are padded to whole 16s."""
    return -(-d // CHECKPOINT_LANES) * CHECKPOINT_LANES * n


def forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    call, keep = _call(inputs)
    y = torch.empty(inputs.u.shape, dtype=inputs.u.dtype)
    final = torch.empty(inputs.batch, inputs.d, inputs.n)
    checkpoints = torch.empty(checkpoint_shape(inputs) if save else (0,))
    put_rows(call, "y", "y_stride", y)
    call.final_state = final.data_ptr()
    call.checkpoints = checkpoints.data_ptr() if save else None
    check(native.library().mom_scan_forward(ctypes.byref(call)), inputs)
    del keep
    return y, final, checkpoints


def backward(
    inputs: ScanInputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None
) -> ScanGrads:
    dtype, rows, n = inputs.u.dtype, inputs.batch * inputs.length, inputs.n
    du, ddelta = (torch.empty(rows, inputs.d, dtype=dtype) for _ in range(2))
    dz = None if inputs.z is None else torch.empty(rows, inputs.d, dtype=dtype)
    dB, dC = (torch.empty(rows, n, dtype=dtype) for _ in range(2))
    dA = torch.empty(inputs.d, n)
    dD = None if inputs.D is None else torch.empty(inputs.d)
    dbias = None if inputs.delta_bias is None else torch.empty(inputs.delta_bias.shape)
    dstate = None if inputs.state is None else torch.empty(inputs.batch, inputs.d, n)
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
    dy = rows_of(dy)
    put_rows(call, "dy", "dy_stride", dy)
    for name, stride in (("u", "du"), ("delta", "ddelta"), ("B", "db"), ("C", "dc"), ("z", "dz")):
        if (x := getattr(out, name)) is not None:
            put_rows(call, f"d{name}", f"{stride}_stride", x)
    if dfinal is not None:
        dfinal = dfinal.to(torch.float32).contiguous()
        call.dfinal = dfinal.data_ptr()
    call.checkpoints = checkpoints.data_ptr()
    library.mom_scan_planes.restype = ctypes.c_int64
    planes = library.mom_scan_planes(ctypes.byref(call))
    rows, lanes = inputs.batch * inputs.length, library.mom_vector_lanes()
    partials = torch.empty(planes if planes > 1 else 0, rows, 2, inputs.n)
    sums = torch.empty(
        (inputs.batch, inputs.n + 1 + call.modalities, -(-inputs.d // lanes) * lanes),
        dtype=torch.float64,
    )
    call.partials, call.parameter_partials = partials.data_ptr(), sums.data_ptr()
    for field, name in (("dA", "A"), ("dD", "D"), ("dbias", "delta_bias"), ("dstate", "state")):
        if (x := getattr(out, name)) is not None:
            setattr(call, field, x.data_ptr())
    check(library.mom_scan_backward(ctypes.byref(call)), inputs)
    del keep


def _call(inputs: ScanInputs) -> tuple[ScanCall, list[Tensor]]:
    """The record with all inputs, and the tensors that must outlive the call."""
    bias = inputs.delta_bias
    call = ScanCall(
        batch=inputs.batch,
        length=inputs.length,
        d=inputs.d,
        n=inputs.n,
        modalities=1 if bias is None else bias.shape[0],
        softplus=inputs.softplus,
        bf16=inputs.u.dtype == torch.bfloat16,
        threads=native.threads(inputs.u.numel() * inputs.n // 4),
    )
    keep = []
    for name, stride in (("u", "u"), ("delta", "delta"), ("B", "b"), ("C", "c"), ("z", "z")):
        if (x := getattr(inputs, name)) is not None:
            keep.append(put_rows(call, name, f"{stride}_stride", x))
    plain = {
        "A": inputs.A,
        "D": inputs.D if inputs.D is None else inputs.D.float(),
        "bias": bias if bias is None else bias.float(),
        "state": inputs.state,
        "rows": inputs.rows,
        "modality": inputs.modality,
        "resets": inputs.resets,
    }
    for name, tensor in plain.items():
        if tensor is not None:
            keep.append(tensor.contiguous())
            setattr(call, name, keep[-1].data_ptr())
    return call, keep


def put_rows(call: ctypes.Structure, name: str, stride: str, x: Tensor) -> Tensor:
    """Enter (r, channels) into the record; -> the tensor that was entered."""
    x = rows_of(x)
    setattr(call, name, x.data_ptr())
    setattr(call, stride, x.stride(0))
    return x


def rows_of(x: Tensor) -> Tensor:
    """x itself where its channels are contiguous, else a copy."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def check(code: int, inputs: ScanInputs) -> None:
    """Turn a kernel's code into an error."""
    total = inputs.batch * inputs.length
    if code == 1:
        raise ValueError(f"the row index names a row outside 0..{total - 1}; use Routing.build")
    if code == 2:
        raise ValueError("a modality is outside the rows of delta_bias; use Routing.build")
