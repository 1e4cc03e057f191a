"""Triton backend "triton": shapes, buffers and launches. The kernels are imported at first launch.

Forward: B and C are packed in time order, one program walks BLOCK channels of a sequence, the state
is checkpointed every EVERY steps. Backward: chunks are recomputed from their checkpoints. Sums that
cross programs are written as parts and added in a fixed order, so results are the same bits every
time. Where batch x channels cannot fill the device, time is cut into segments (triton_segments.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..triton_support import device_why_not, multiprocessors
from .inputs import ScanGrads, ScanInputs

__all__ = ["BACKWARD", "EVERY", "FORWARD", "Tiles", "backward", "checkpoint_shape", "forward"]
__all__ += ["segment_length", "why_not"]


class Tiles(NamedTuple):
    """Launch shape: channels a program, warps a program, steps a tile."""

    block: int
    warps: int
    steps: int


# One channel a lane (block = 32 * warps): anything else makes the compiler shuffle states between
# lanes. The backward keeps the states of a tile in registers, so its tiles are shorter.
FORWARD = Tiles(block=64, warps=2, steps=8)
BACKWARD = Tiles(block=32, warps=1, steps=4)
EVERY = 64  # steps a checkpoint; memory (b, t / EVERY, n, d) float32
MAX_STATES = 64
_MAX_ROWS, _MAX_MODALITIES = 1 << 26, 1 << 4  # what fits into step_info, see triton_tiles.py
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
    call = _Call(x, FORWARD)
    start = _channels_last(x.state)
    if call.segments > 1:
        start = call.segment_starts(start)
    call.launch(
        scan_forward_kernel,
        call.grid,
        **call.reads("u", "delta", "z"),
        D=x.D,
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
    dy = _rows(dy)
    call = _Call(x, BACKWARD)
    dend = _channels_last(dfinal)
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
        D=x.D,
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


class _Call:
    """What the launches of one call share: packed B and C, shapes, flags."""

    def __init__(self, inputs: ScanInputs, tiles: Tiles) -> None:
        self.inputs = x = inputs
        self.n_padded = max(2, 1 << (x.n - 1).bit_length())
        self.tiles = tiles = fitted(tiles, self.n_padded)
        self.segment = segment_length(x, tiles)
        self.segments = -(-x.length // self.segment)
        self.blocks = -(-x.d // tiles.block)
        self.grid = (self.blocks, x.batch, self.segments)
        self.A = x.A.t().contiguous()
        self.bias = None if x.delta_bias is None else x.delta_bias.contiguous()
        self.rows = {
            name: None if value is None else _rows(value)
            for name, value in (("u", x.u), ("delta", x.delta), ("z", x.z))
        }
        self.packed, self.step_info = self._pack()

    def reads(self, *names: str) -> dict[str, Any]:
        """The named rows and their strides, as kernel arguments."""
        found: dict[str, Any] = {}
        for name in names:
            rows = self.rows[name]
            found[name] = rows
            found[f"stride_{name}"] = 0 if rows is None else rows.stride(0)
        return found

    def launch(self, kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        """Add what every kernel over channels takes, and what this one takes of the rest."""
        x, tiles = self.inputs, self.tiles
        strides = [v for k, v in arguments.items() if k.startswith("stride_") and "_" not in k[7:]]
        shared = {
            "packed": self.packed,
            "step_info": self.step_info,
            "A": self.A,
            "bias": self.bias,
            "length": x.length,
            "segment": self.segment,
            "d": x.d,
            "n": x.n,
            "hidden_one": 1,
            "N": self.n_padded,
            "BLOCK": tiles.block,
            "T": tiles.steps,
            "HAS_BIAS": self.bias is not None,
            "HAS_RESETS": x.resets is not None,
            "SOFTPLUS": x.softplus,
            "WHOLE": x.length % tiles.steps == x.d % tiles.block == 0 and x.n == self.n_padded,
            "WIDE": x.u.shape[0] * max([x.d, *strides]) >= 2**31,
        }
        wanted = {name: shared[name] for name in kernel.arg_names if name in shared}
        kernel[grid](
            **{**wanted, **arguments}, num_warps=tiles.warps, num_stages=1, enable_fp_fusion=True
        )

    def _pack(self) -> tuple[Tensor, Tensor]:
        from .triton_pack import pack_kernel

        x = self.inputs
        positions = x.batch * x.length
        B, C = _rows(x.B), _rows(x.C)
        packed = torch.empty((positions, self.n_padded, 2, 2), dtype=torch.float32, device=B.device)
        step_info = torch.empty((positions,), dtype=torch.int32, device=B.device)
        block = max(1, 512 // self.n_padded)
        pack_kernel[(-(-positions // block),)](
            B,
            C,
            x.rows,
            x.modality if self.bias is not None else None,
            None if x.resets is None else x.resets.contiguous().view(torch.uint8),
            packed,
            step_info,
            positions,
            x.n,
            B.stride(0),
            C.stride(0),
            N=self.n_padded,
            BLOCK=block,
            HAS_ROWS=x.rows is not None,
            HAS_MODALITY=self.bias is not None and x.modality is not None,
            HAS_RESETS=x.resets is not None,
        )
        return packed.view(torch.int64), step_info

    def reduce(self, partial: Tensor) -> tuple[Tensor, Tensor]:
        """partial (blocks, b * t, 2, N) -> dB, dC (r, n) in the dtype of B."""
        from .triton_pack import reduce_kernel

        x = self.inputs
        positions = x.batch * x.length
        dB, dC = (torch.empty((positions, x.n), dtype=x.B.dtype, device=x.B.device) for _ in "BC")
        block = max(1, 256 // self.n_padded)
        reduce_kernel[(-(-positions // block),)](
            partial, self.step_info, dB, dC, positions, self.blocks, x.n,
            N=self.n_padded, BLOCK=block,
        )  # fmt: skip
        return dB, dC

    def segment_starts(self, start: Tensor | None) -> Tensor:
        """(b, s, n, d) state before each segment."""
        from .triton_segments import segment_state_kernel

        slots, totals = self._slots()
        self.launch(
            segment_state_kernel,
            (self.blocks, self.inputs.batch, self.segments - 1),
            **self.reads("u", "delta"),
            slots=slots,
            totals=totals,
            segments=self.segments,
        )
        self._carry(start, slots, totals, reverse=False)
        return slots

    def segment_gradients(self, dy: Tensor, dend: Tensor | None) -> Tensor:
        """(b, s, n, d) gradient of the state after each segment."""
        from .triton_segments import segment_gradient_kernel

        slots, totals = self._slots()
        self.launch(
            segment_gradient_kernel,
            (self.blocks, self.inputs.batch, self.segments - 1),
            dy=dy,
            stride_dy=dy.stride(0),
            **self.reads("delta", "z"),
            slots=slots,
            totals=totals,
            segments=self.segments,
            HAS_Z=self.inputs.z is not None,
        )
        self._carry(dend, slots, totals, reverse=True)
        return slots

    def _slots(self) -> tuple[Tensor, Tensor]:
        x, device = self.inputs, self.inputs.u.device
        slots = torch.empty((x.batch, self.segments, x.n, x.d), dtype=torch.float32, device=device)
        return slots, torch.empty((x.batch, self.segments, x.d), dtype=torch.float32, device=device)

    def _carry(self, start: Tensor | None, slots: Tensor, totals: Tensor, *, reverse: bool) -> None:
        from .triton_segments import carry_kernel

        self.launch(
            carry_kernel,
            (self.blocks, self.inputs.batch),
            start=start,
            slots=slots,
            totals=totals,
            segments=self.segments,
            HAS_START=start is not None,
            REVERSE=reverse,
        )


def _channels_last(state: Tensor | None) -> Tensor | None:
    """(b, d, n) -> (b, n, d)."""
    return None if state is None else state.transpose(1, 2).contiguous()


def _rows(x: Tensor) -> Tensor:
    """Rows with contiguous channels; a copy where they are not (an expanded gradient, say)."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def _no_steps(inputs: ScanInputs, dfinal: Tensor | None) -> ScanGrads:
    """Gradients of a call without time or batch: all zero, and the final state is the first."""
    found = {name: getattr(inputs, name) for name in ScanGrads._fields}
    found = {name: None if x is None else torch.zeros_like(x) for name, x in found.items()}
    if inputs.state is not None and dfinal is not None:
        found["state"] = dfinal.clone()
    return ScanGrads(**found)  # type: ignore[arg-type]
