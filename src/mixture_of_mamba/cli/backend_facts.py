"""Which backend each op takes on a device, and why it takes none of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..layers import MambaBlock, MambaConfig
from ..layers.fused import block_weights
from ..ops import Routing, dispatch, mamba_block
from ..ops.causal_conv1d.inputs import ConvInputs
from ..ops.modality_linear.inputs import LinearInputs
from ..ops.selective_scan.inputs import ScanInputs

__all__ = ["backends", "fused_block"]


def backends(device: str) -> dict[str, dict[str, Any]]:
    """By op: the backend that float32 training on this device takes, and why it takes no other."""
    described = {}
    for op, inputs in _small_inputs(device).items():
        active = dispatch.active(op, inputs)[0] or "none"
        passed = {
            name: _reason(dispatch.load(op, name).why_not, inputs, active)
            for name in dispatch.backends(op)
            if name != active
        }
        described[op] = {"active": active, "others": passed}
    return described


def fused_block() -> str:
    """Whether a whole float32 block runs as one op on the CPU."""
    config = MambaConfig(d_model=16, n_modalities=2)
    ids = (torch.arange(8) % 2).view(1, 8)
    reason = mamba_block.why_not(
        torch.zeros(8, 16), block_weights(MambaBlock(config)), Routing.build(ids, 2)
    )
    return f"no: {reason}" if reason else "yes"


def _reason(why_not: Callable[[Any], str | None], inputs: Any, active: str) -> str:
    return why_not(inputs) or f"usable by name; {active} comes first"


def _small_inputs(device: str) -> dict[str, Any]:
    """A small float32 call of each op, as a model of two modalities makes it."""
    b, t, d, n, m = 1, 8, 16, 16, 2
    ids = (torch.arange(t, device=device) % m).view(b, t)
    routing = Routing.build(ids, m)
    rows = torch.zeros(b * t, d, device=device)
    states = torch.zeros(b * t, n, device=device)
    channels = torch.zeros(d, device=device)
    return {
        "selective_scan": ScanInputs(
            u=rows,
            delta=rows,
            A=-torch.ones(d, n, device=device),
            B=states,
            C=states,
            D=channels,
            z=rows,
            delta_bias=torch.zeros(m, d, device=device),
            state=None,
            row_index=routing,
            softplus=True,
        ),
        "causal_conv1d": ConvInputs(
            x=rows,
            weight=torch.zeros(d, 4, device=device),
            bias=channels,
            state=None,
            row_index=routing,
            silu=True,
        ),
        "modality_linear": LinearInputs(
            x=rows,
            weight=torch.zeros(m, d, d, device=device),
            bias=None,
            offsets=routing.offsets,
            host_offsets=routing.host_offsets,
        ),
    }
