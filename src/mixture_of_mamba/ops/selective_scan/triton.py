"""Triton backend "triton": shapes, buffers and launches. The kernels are imported at first launch.

Forward: B and C are packed in time order, one program walks BLOCK channels of a sequence, the state
is checkpointed every EVERY steps. Backward: chunks are recomputed from their checkpoints. Sums that
cross programs are written as parts and added in a fixed order, so results are the same bits every
time. Where batch x channels cannot fill the device, time is cut into segments (triton_segments.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_support import MAX_GRID, device_why_not, multiprocessors
from .inputs import ScanGrads, ScanInputs
from .triton_call import Call, Tiles, channels_last, contiguous_rows, padded

__all__ = ["BACKWARD", "EVERY", "FORWARD", "backward", "checkpoint_shape", "fitted", "forward"]
__all__ += ["Tiles", "segment_length", "why_not"]


# One channel a lane (block = 32 * warps): anything else makes the compiler shuffle states between
# lanes. The backward keeps the states of a tile in registers, so its tiles are shorter.
FORWARD = Tiles(block=64, warps=2, steps=8)
BACKWARD = Tiles(block=32, warps=1, steps=4)
EVERY = 64  # steps a checkpoint; memory (b, t / EVERY, n, d) float32
MAX_STATES = 64
_MAX_ROWS, _MAX_MODALITIES = 1 << 26, 1 << 4  # what fits into step_info, see triton_tiles.py
_MAX_WORDS = 1 << 31  # packed words of a sequence are counted in 32 bits
_WARPS_PER_MULTIPROCESSOR = 8  # enough to hide the latency of exponentials behind one another
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(inputs: ScanInputs) -> str | None:
    """A reason that names the limit, or None."""
    if reason := device_why_not(inputs.u):
        return reason
    if inputs.u.dtype not in _DTYPES:
        return f"u is {inputs.u.dtype}; it serves float32, bfloat16 and float16"
    if inputs.n > MAX_STATES:
        return f"A has {inputs.n} states a channel; it keeps at most {MAX_STATES} in registers"
    if inputs.u.shape[0] >= _MAX_ROWS:
        return f"u has {inputs.u.shape[0]} rows; it serves fewer than {_MAX_ROWS}"
    if inputs.length * 2 * padded(inputs.n) >= _MAX_WORDS:
        limit = _MAX_WORDS // (2 * padded(inputs.n))
        return f"a sequence has {inputs.length} steps; with {inputs.n} states it serves {limit - 1}"
    if inputs.batch > MAX_GRID:
        return f"the batch has {inputs.batch} sequences; it serves at most {MAX_GRID}"
    if inputs.delta_bias is not None and inputs.delta_bias.shape[0] > _MAX_MODALITIES:
        return f"delta_bias has {inputs.delta_bias.shape[0]} modalities; at most {_MAX_MODALITIES}"
    return None


def checkpoint_shape(inputs: ScanInputs) -> tuple[int, ...]:
    return (inputs.batch, -(-inputs.length // EVERY), inputs.n, inputs.d)


def fitted(tiles: Tiles, states: int) -> Tiles:
    """A lane holds 16 states. Where a channel has more, lanes share it: fewer channels a program
    (at least 16, which the products of the backward need)."""
    return tiles._replace(block=min(tiles.block, max(16, tiles.block * 16 // states)))


def segment_length(inputs: ScanInputs, tiles: Tiles) -> int:
    """Steps of a segment: all of them where batch x channels fill the device three times less than
    cutting would; cutting costs another pass over the elements."""
    programs = inputs.batch * -(-inputs.d // tiles.block)
    wanted = multiprocessors(inputs.u.device) * _WARPS_PER_MULTIPROCESSOR // tiles.warps
    segments = min(wanted // max(programs, 1), inputs.length // (2 * EVERY))
    if segments < 3:
        return inputs.length
    return -(-inputs.length // (segments * EVERY)) * EVERY


def _call(inputs: ScanInputs, tiles: Tiles) -> Call:
    tiles = fitted(tiles, padded(inputs.n))
    return Call(inputs, tiles, segment_length(inputs, tiles))


def forward(inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_forward import scan_forward_kernel

    x = inputs
    b, t, d, n = x.batch, x.length, x.d, x.n
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
    b, t, d, n = x.batch, x.length, x.d, x.n
    if not b * t * d:
        return _no_steps(x, dfinal)
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


def _no_steps(inputs: ScanInputs, dfinal: Tensor | None) -> ScanGrads:
    """Gradients of a call without time or batch: all zero, and the final state is the first."""
    found = {name: getattr(inputs, name) for name in ScanGrads._fields}
    found = {name: None if x is None else torch.zeros_like(x) for name, x in found.items()}
    if inputs.state is not None and dfinal is not None:
        found["state"] = dfinal.clone()
    return ScanGrads(**found)  # type: ignore[arg-type]
