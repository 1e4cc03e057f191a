"""Triton backend "triton": shapes, buffers and launches. The kernels are imported at first launch.

Forward: B and C are packed in time order, one program walks BLOCK channels of a sequence, the state
is checkpointed every EVERY steps. Backward: chunks are recomputed from their checkpoints. Sums that
cross programs are written as parts and added in a fixed order, so results are the same bits every
time. Where batch x channels cannot fill the device, time is cut into segments (triton_segments.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..routing import contiguous_rows
from ..triton_support import LaunchConfig, multiprocessors, why_not_triton, without_steps
from .inputs import ScanGrads, ScanInputs
from .triton_call import Call, channels_last, padded

__all__ = [
    "BACKWARD",
    "EVERY",
    "FORWARD",
    "backward",
    "checkpoint_shape",
    "fitted",
    "forward",
    "segment_length",
    "why_not",
]

#: One channel a lane (block = 32 * warps): anything else makes the compiler shuffle states between
#: lanes. The backward keeps the states of a tile in registers, so its tiles are shorter.
FORWARD = LaunchConfig(block=64, warps=2, steps=8)
BACKWARD = LaunchConfig(block=32, warps=1, steps=4)
#: Steps between checkpoints, which take (b, t / EVERY, n, d) float32.
EVERY = 64
#: States of a channel that fit into registers.
MAX_STATES = 64
#: What fits into step_info (triton_tiles.py).
_MAX_ROWS, _MAX_MODALITIES = 1 << 26, 1 << 4
#: Packed words of a sequence are counted in 32 bits.
_MAX_WORDS = 1 << 31
#: Enough to hide the latency of exponentials behind one another.
_WARPS_PER_MULTIPROCESSOR = 8


def why_not(inputs: ScanInputs) -> str | None:
    """A reason that names the limit, or None."""
    if reason := why_not_triton("u", inputs.u, inputs.row_index):
        return reason
    if inputs.n > MAX_STATES:
        return f"A has {inputs.n} states a channel; it keeps at most {MAX_STATES} in registers"
    if inputs.u.shape[0] >= _MAX_ROWS:
        return f"u has {inputs.u.shape[0]} rows; it serves fewer than {_MAX_ROWS}"
    length = inputs.row_index.length
    if length * 2 * padded(inputs.n) >= _MAX_WORDS:
        limit = _MAX_WORDS // (2 * padded(inputs.n))
        return f"a sequence has {length} steps; with {inputs.n} states it serves {limit - 1}"
    if inputs.delta_bias is not None and inputs.delta_bias.shape[0] > _MAX_MODALITIES:
        return f"delta_bias has {inputs.delta_bias.shape[0]} modalities; at most {_MAX_MODALITIES}"
    return None


def checkpoint_shape(inputs: ScanInputs) -> tuple[int, ...]:
    return (inputs.row_index.batch, -(-inputs.row_index.length // EVERY), inputs.n, inputs.d)


def fitted(tiles: LaunchConfig, states: int) -> LaunchConfig:
    """A lane holds 16 states. Where a channel has more, lanes share it: fewer channels a program
    (at least 16, which the products of the backward need)."""
    return tiles._replace(block=min(tiles.block, max(16, tiles.block * 16 // states)))


def segment_length(inputs: ScanInputs, tiles: LaunchConfig) -> int:
    """Steps of a segment: all of them where batch x channels fill the device three times less than
    cutting would; cutting costs another pass over the elements."""
    batch, length = inputs.row_index.shape
    programs = batch * -(-inputs.d // tiles.block)
    wanted = multiprocessors(inputs.u.device) * _WARPS_PER_MULTIPROCESSOR // tiles.warps
    segments = min(wanted // max(programs, 1), length // (2 * EVERY))
    if segments < 3:
        return length
    return -(-length // (segments * EVERY)) * EVERY


def _call(inputs: ScanInputs, tiles: LaunchConfig) -> Call:
    tiles = fitted(tiles, padded(inputs.n))
    return Call(inputs, tiles, segment_length(inputs, tiles))


def forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_forward import scan_forward_kernel

    x = inputs
    (b, t), d, n = x.row_index.shape, x.d, x.n
    y = torch.empty(x.u.shape, dtype=x.u.dtype, device=x.u.device)
    final = torch.empty((b, n, d), dtype=torch.float32, device=y.device)
    shape = checkpoint_shape(x) if save else (0,)
    checkpoints = torch.empty(shape, dtype=torch.float32, device=y.device)
    if not b * t * d:
        return y, y.new_zeros(b, d, n).float() if x.state is None else x.state.clone(), checkpoints
    call = _call(x, FORWARD)
    start = channels_last(x.state)
    if call.segments > 1:
        start = call.segment_starts(start)
    call.launch(
        scan_forward_kernel,
        call.grid,
        **call.reads("u", "delta", "z"),
        start=start,
        y=y,
        final=final,
        checkpoints=checkpoints,
        EVERY=EVERY,
        HAS_Z=x.z is not None,
        HAS_D=x.D is not None,
        HAS_START=start is not None,
        SAVE=save,
    )
    return y, final.transpose(1, 2).contiguous(), checkpoints


def backward(
    inputs: ScanInputs, checkpoints: Tensor, dy: Tensor, dfinal: Tensor | None
) -> ScanGrads:
    from .triton_backward import scan_backward_kernel

    x = inputs
    (b, t), d, n = x.row_index.shape, x.d, x.n
    if not b * t * d:
        return without_steps(x, ScanGrads, dfinal)
    dy = contiguous_rows(dy)
    call = _call(x, BACKWARD)
    dend = channels_last(dfinal)
    if call.segments > 1:
        dend = call.segment_gradients(dy, dend)
    modalities = 0 if x.delta_bias is None else x.delta_bias.shape[0]
    blocks, programs = call.grid[0], (b, call.segments)

    def sums(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=dy.device)

    du, ddelta, dz = (x.u.new_empty(x.u.shape) for _ in range(3))
    dA, dstart = sums(*programs, n, d), sums(*programs, n, d)
    dD, dbias = sums(*programs, d), sums(*programs, modalities, d)
    partial = sums(blocks, b * t, 2, call.n_padded)
    call.launch(
        scan_backward_kernel,
        call.grid,
        dy=dy,
        stride_dy=dy.stride(0),
        **call.reads("u", "delta", "z"),
        checkpoints=checkpoints,
        scratch=sums(*programs, EVERY // call.tiles.steps, n, d),
        dend=dend,
        du=du,
        ddelta=ddelta,
        dz=dz,
        dA=dA,
        dD=dD,
        dbias=dbias,
        partial=partial,
        dstart=dstart,
        batch=b,
        EVERY=EVERY,
        MODALITIES=modalities,
        # tf32 keeps more bits than the gradients of 16-bit inputs; float32 takes three products.
        PRECISION="tf32x3" if x.u.dtype == torch.float32 else "tf32",
        HAS_Z=x.z is not None,
        HAS_D=x.D is not None,
        HAS_DEND=dend is not None,
    )
    dB, dC = call.reduce(partial)
    return ScanGrads(
        du,
        ddelta,
        dA.sum((0, 1)).t().contiguous(),
        dB,
        dC,
        None if x.D is None else dD.sum((0, 1)).to(x.D.dtype),
        None if x.z is None else dz,
        None if x.delta_bias is None else dbias.sum((0, 1)).to(x.delta_bias.dtype),
        None if x.state is None else dstart[:, 0].transpose(1, 2).contiguous(),
    )
