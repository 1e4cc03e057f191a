"""The CUDA peers, where they can be imported, and the mixture as it is done with boolean masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixture_of_mamba.layers import MambaBlock
from mixture_of_mamba.ops import causal_conv1d, selective_scan
from mixture_of_mamba.ops.causal_conv1d import ConvInputs
from mixture_of_mamba.ops.selective_scan import ScanInputs

__all__ = [
    "available",
    "conv",
    "kernels",
    "mamba_block",
    "masked_block",
    "scan",
    "why_no_mamba",
]


@cache
def _load(name: str) -> ModuleType | str:
    """The module, or why it cannot be imported: absent, or built for another torch."""
    try:
        return import_module(name)
    except Exception as error:  # what a foreign package raises on import is its own affair
        first = (str(error).splitlines() or [""])[0]
        return f"{name} cannot be imported: {type(error).__name__}: {first[:150]}"


def _module(name: str) -> ModuleType | None:
    found = _load(name)
    return None if isinstance(found, str) else found


def available() -> dict[str, str]:
    """By name: "imported", or why not."""
    names = ("mamba_ssm.modules.mamba_simple", "selective_scan_cuda", "causal_conv1d")
    return {name: v if isinstance(v := _load(name), str) else "imported" for name in names}


def _scan_function() -> Callable[..., Tensor] | None:
    module = _module("mamba_ssm.ops.selective_scan_interface")
    return None if module is None else module.selective_scan_fn


def scan(way: str, x: ScanInputs, dy: Tensor) -> Callable[[], object] | None:
    """A call of mamba-ssm's scan on the same values in its own layout (b, d, t), or None."""
    function = _scan_function()
    if function is None or dy.device.type != "cuda":
        return None

    def theirs(v: Tensor | None) -> Tensor | None:
        if v is None:
            return None
        return v.view(*x.row_index.shape, -1).transpose(1, 2).contiguous().requires_grad_()

    u, delta, B, C, z, out = (theirs(v) for v in (x.u, x.delta, x.B, x.C, x.z, dy))
    A, D, bias = (v.clone().requires_grad_() for v in (x.A, x.D, x.delta_bias[0]))  # type: ignore[union-attr,index]

    def forward() -> Tensor:
        return function(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)

    if way == "forward":
        return forward
    y, leaves = forward(), [u, delta, A, B, C, D, z, bias]
    return lambda: torch.autograd.grad(y, leaves, out.detach(), retain_graph=True)  # type: ignore[union-attr,arg-type]


def conv(way: str, x: ConvInputs, dy: Tensor) -> Callable[[], object] | None:
    """A call of causal-conv1d on the same values, channels last as it prefers, or None."""
    module = _module("causal_conv1d")
    if module is None or dy.device.type != "cuda":
        return None
    u = x.x.view(*x.row_index.shape, -1).transpose(1, 2).detach().requires_grad_()
    out = dy.view(*x.row_index.shape, -1).transpose(1, 2)
    weight, bias = (v.clone().requires_grad_() for v in (x.weight, x.bias))  # type: ignore[union-attr]

    def forward() -> Tensor:
        return module.causal_conv1d_fn(u, weight, bias, activation="silu")

    if way == "forward":
        return forward
    y = forward()
    return lambda: torch.autograd.grad(y, [u, weight, bias], out, retain_graph=True)


def why_no_mamba() -> str | None:
    """Why mamba-ssm's dense mixer cannot run here; None where it can."""
    if not torch.cuda.is_available():
        return "mamba-ssm needs a CUDA device"
    found = _load("mamba_ssm.modules.mamba_simple")
    return found if isinstance(found, str) else None


def mamba_block(d_model: int) -> nn.Module:
    """mamba-ssm's own dense mixer with its fused path."""
    block: nn.Module = import_module("mamba_ssm.modules.mamba_simple").Mamba(d_model)
    return block


def kernels() -> str:
    """Whose convolution and scan `masked_block` takes."""
    names = {"mamba-ssm": _scan_function(), "causal-conv1d": _module("causal_conv1d")}
    found = [name for name, there in names.items() if there is not None]
    return " and ".join(found) if found and torch.cuda.is_available() else "ours"


def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, masks: list[Tensor]) -> Tensor:
    """Each modality's rows picked by a boolean mask, multiplied, and put back; each pick waits for
    the device to say how many rows there are."""
    y = x.new_empty(x.shape[0], weight.shape[1], dtype=_product_dtype(x))
    for m, mask in enumerate(masks):
        y[mask] = F.linear(x[mask], weight[m], None if bias is None else bias[m]).to(y.dtype)
    return y


def _product_dtype(x: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def masked_block(block: MambaBlock, x: Tensor, masks: list[Tensor], b: int, t: int) -> Tensor:
    """A block of ours as the mixture's first implementation computes it: rows (r, d) in time order,
    a boolean mask per modality in every projection, convolution and scan in (b, d, t). The CUDA
    kernels where they can be imported; else ours."""
    mixer: Any = block.mixer
    c = mixer.config
    h = block.norm(x)
    x_in, z = masked_linear(h, mixer.in_proj.weight, None, masks).split(c.d_inner, -1)
    A = -torch.exp(mixer.A_log.float())
    module, function = _module("causal_conv1d"), _scan_function()
    taps, offset = mixer.conv1d.weight[:, 0], mixer.conv1d.bias
    if module is not None and x.device.type == "cuda":
        wide = x_in.reshape(b, t, -1).transpose(1, 2)
        u = module.causal_conv1d_fn(wide, taps, offset, activation="silu")
        u = u.transpose(1, 2).reshape(b * t, -1)
    else:
        u = causal_conv1d(x_in.reshape(b, t, -1), taps, offset)[0].reshape(b * t, -1)
    maps = masked_linear(u, mixer.x_proj.weight, None, masks)
    low, B, C = maps.split([c.rank, c.d_state, c.d_state], -1)
    delta = masked_linear(low.contiguous(), mixer.dt_proj.weight, mixer.dt_proj.bias, masks)
    if function is not None and x.device.type == "cuda":

        def theirs(v: Tensor) -> Tensor:
            return v.reshape(b, t, -1).transpose(1, 2).contiguous()

        y = function(*map(theirs, (u, delta)), A, *map(theirs, (B, C)), mixer.D.float(),
                     z=theirs(z), delta_softplus=True)  # fmt: skip
        y = y.transpose(1, 2).reshape(b * t, -1)
    else:
        ours = (v.reshape(b, t, -1) for v in (u, delta))
        y = selective_scan(*ours, A, B.reshape(b, t, -1), C.reshape(b, t, -1), mixer.D,
                           z=z.reshape(b, t, -1), delta_softplus=True)[0]  # fmt: skip
        y = y.reshape(b * t, -1)
    return x + masked_linear(y, mixer.out_proj.weight, None, masks)
