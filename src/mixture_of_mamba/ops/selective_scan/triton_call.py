"""What the launches of one scan share: packed B and C, padded sizes, flags, segments of time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..routing import contiguous_rows
from ..triton_support import LaunchConfig, as_bytes, contiguous, on_device
from .inputs import ScanInputs

__all__ = ["Call", "channels_last", "padded"]


def padded(states: int) -> int:
    """States of a channel in registers: a power of two, at least a pair."""
    return max(2, 1 << (states - 1).bit_length())


class Call:
    """What the launches of one call share: packed B and C, shapes, flags."""

    def __init__(self, inputs: ScanInputs, tiles: LaunchConfig, segment: int) -> None:
        self.inputs = x = inputs
        self.n_padded = padded(x.n)
        self.tiles = tiles
        self.segment = segment
        self.segments = -(-x.row_index.length // self.segment)
        self.blocks = -(-x.d // tiles.block)
        self.grid = (self.blocks, x.row_index.batch, self.segments)
        self.A = x.A.t().contiguous()
        self.bias, self.D = contiguous(x.delta_bias), contiguous(x.D)
        self.rows = {
            name: None if value is None else contiguous_rows(value)
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
        x, tiles, length = self.inputs, self.tiles, self.inputs.row_index.length
        strides = [v for k, v in arguments.items() if k.startswith("stride_") and "_" not in k[7:]]
        shared = {
            "packed": self.packed,
            "step_info": self.step_info,
            "A": self.A,
            "bias": self.bias,
            "D": self.D,
            "length": length,
            "segment": self.segment,
            "d": x.d,
            "n": x.n,
            "opaque_one": 1,
            "N": self.n_padded,
            "BLOCK": tiles.block,
            "T": tiles.steps,
            "HAS_BIAS": self.bias is not None,
            "HAS_RESETS": x.row_index.resets is not None,
            "SOFTPLUS": x.softplus,
            "UNMASKED": x.n == self.n_padded and x.d % tiles.block == length % tiles.steps == 0,
            "LONG_OFFSETS": x.u.shape[0] * max([x.d, *strides]) >= 2**31,
        }
        wanted = {name: shared[name] for name in kernel.arg_names if name in shared}
        options = {"num_warps": tiles.warps, "num_stages": 1, "enable_fp_fusion": True}
        with on_device(x.u):
            kernel[grid](**{**wanted, **arguments}, **options)

    def _pack(self) -> tuple[Tensor, Tensor]:
        from .triton_pack import pack_kernel

        x = self.inputs
        positions = x.row_index.size
        B, C = contiguous_rows(x.B), contiguous_rows(x.C)
        packed = torch.empty((positions, self.n_padded, 2, 2), dtype=torch.float32, device=B.device)
        step_info = torch.empty((positions,), dtype=torch.int32, device=B.device)
        block = max(1, 512 // self.n_padded)
        with on_device(B):
            pack_kernel[(-(-positions // block),)](
                B,
                C,
                contiguous(x.row_index.rows),
                contiguous(x.bias_rows),
                as_bytes(x.row_index.resets),
                packed,
                step_info,
                positions,
                x.n,
                B.stride(0),
                C.stride(0),
                N=self.n_padded,
                BLOCK=block,
                HAS_ROWS=x.row_index.rows is not None,
                HAS_MODALITY=x.bias_rows is not None,
                HAS_RESETS=x.row_index.resets is not None,
                enable_fp_fusion=True,  # unset, Triton 3.9 warns
            )
        return packed.view(torch.int64), step_info

    def reduce(self, partial: Tensor) -> tuple[Tensor, Tensor]:
        """partial (blocks, b * t, 2, N) -> dB, dC (r, n) in the dtype of B."""
        from .triton_pack import reduce_kernel

        x = self.inputs
        positions = x.row_index.size
        dB, dC = (torch.empty((positions, x.n), dtype=x.B.dtype, device=x.B.device) for _ in "BC")
        block = max(1, 256 // self.n_padded)
        with on_device(partial):
            reduce_kernel[(-(-positions // block),)](
                partial, self.step_info, dB, dC, positions, self.blocks, x.n,
                N=self.n_padded, BLOCK=block, enable_fp_fusion=True,
            )  # fmt: skip
        return dB, dC

    def segment_starts(self, start: Tensor | None) -> Tensor:
        """(b, s, n, d) state before each segment."""
        from .triton_segments import segment_state_kernel

        slots, totals = self._slots()
        self.launch(
            segment_state_kernel,
            (self.blocks, self.inputs.row_index.batch, self.segments - 1),
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
            (self.blocks, self.inputs.row_index.batch, self.segments - 1),
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
        x = self.inputs
        slots = x.u.new_empty((x.row_index.batch, self.segments, x.n, x.d), dtype=torch.float32)
        totals = x.u.new_empty((x.row_index.batch, self.segments, x.d), dtype=torch.float32)
        return slots, totals

    def _carry(self, start: Tensor | None, slots: Tensor, totals: Tensor, *, reverse: bool) -> None:
        from .triton_segments import carry_kernel

        self.launch(
            carry_kernel,
            (self.blocks, self.inputs.row_index.batch),
            start=start,
            slots=slots,
            totals=totals,
            segments=self.segments,
            HAS_START=start is not None,
            REVERSE=reverse,
        )


def channels_last(state: Tensor | None) -> Tensor | None:
    """(b, d, n) -> (b, n, d)."""
    return None if state is None else state.transpose(1, 2).contiguous()
