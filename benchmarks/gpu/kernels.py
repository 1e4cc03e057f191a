"""The scan and the convolution: errors against float64, times, bytes moved; beside CUDA peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixture_of_mamba.ops import Routing
from mixture_of_mamba.ops.causal_conv1d import ConvInputs, causal_conv1d_reference
from mixture_of_mamba.ops.causal_conv1d import triton as conv
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import ScanInputs, selective_scan_reference
from mixture_of_mamba.ops.selective_scan import triton as scan

from . import peers
from .measuring import peak_memory, relative_error, time_calls
from .reporting import Report

__all__ = ["conv_inputs", "run", "scan_inputs"]


def run(report: Report) -> None:
    report.part("peers", lambda found: who_is_there(report, found))
    for dtype in (torch.float32,) if report.dry else (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        report.part(f"scan error {name}", lambda f, d=dtype: scan_error(report, f, d))
        report.part(f"conv error {name}", lambda f, d=dtype: conv_error(report, f, d))
    shapes = {"small": (1, 16, 32)} if report.dry else {
        "large": (8, 4096, 4096),
        "one sequence": (1, 4096, 1536),
        "one long sequence": (1, 65536, 3072),
    }  # fmt: skip
    for name, (b, t, d) in shapes.items():
        report.part(f"scan {name}", lambda f, s=(b, t, d): scan_times(report, f, *s))
        report.part(f"conv {name}", lambda f, s=(b, t, d): conv_times(report, f, *s))


def who_is_there(report: Report, found: dict[str, Any]) -> None:
    found |= peers.available()
    report.line("peers: " + "; ".join(f"{name} {text}" for name, text in found.items()))


def scan_inputs(
    b: int, t: int, d: int, dtype: torch.dtype, device: torch.device, *, plain: bool = False
) -> ScanInputs:
    """Random inputs as a block makes them: z, B and C are slices of wider rows.

    plain: time order, no documents, one bias: what the CUDA peers can do.
    """
    n = 4 if device.type == "cpu" else 16

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device)

    xz, maps = normal(b * t, 2 * d).to(dtype), normal(b * t, d // 16 + 2 * n).to(dtype)
    ids = torch.randint(2, (b, t), device=device).repeat_interleave(8, 1)[:, :t]
    documents = (torch.rand(b, t, device=device) < 8 / t).cumsum(1)
    routing = Routing.build(ids, 2, documents)
    return ScanInputs(
        u=xz[:, :d],
        delta=(0.5 * normal(b * t, d)).to(dtype),
        A=-torch.arange(1, n + 1, device=device).float().expand(d, n).contiguous(),
        B=maps[:, -2 * n : -n],
        C=maps[:, -n:],
        D=torch.ones(d, device=device),
        z=xz[:, d:],
        delta_bias=normal(1 if plain else 2, d) - 4.0,
        state=None,
        row_index=RowIndex(None, None, None, b, t) if plain else routing,
        softplus=True,
    )


def conv_inputs(
    b: int, t: int, d: int, dtype: torch.dtype, device: torch.device, *, plain: bool = False
) -> ConvInputs:
    x = torch.randn(b * t, 2 * d, device=device).to(dtype)[:, :d]
    ids = torch.randint(2, (b, t), device=device).repeat_interleave(8, 1)[:, :t]
    routing = Routing.build(ids, 2, (torch.rand(b, t, device=device) < 8 / t).cumsum(1))
    return ConvInputs(
        x=x,
        weight=torch.randn(d, 4, device=device) / 2,
        bias=torch.randn(d, device=device),
        state=None,
        row_index=RowIndex(None, None, None, b, t) if plain else routing,
        silu=True,
    )


def exact(inputs: Any, reference: Callable[..., tuple[Tensor, Tensor]], dy: Tensor) -> list[Tensor]:
    """y, final state and gradients of all floating inputs by plain autograd in float64."""
    leaves = {
        name: v.double().requires_grad_()
        for name, v in inputs._asdict().items()
        if isinstance(v, Tensor) and v.is_floating_point()
    }
    y, final = reference(inputs._replace(**leaves))
    names = list(leaves)
    found = torch.autograd.grad([y], [leaves[name] for name in names], [dy.double()])
    return [y.detach(), final.detach(), *found]


def scan_error(report: Report, found: dict[str, Any], dtype: torch.dtype) -> None:
    b, t, d = (1, 9, 8) if report.dry else (2, 333, 200)
    base = scan_inputs(b, t, d, dtype, report.device)
    inputs = base._replace(state=torch.randn(b, d, base.n, device=report.device))
    dy = torch.randn(b * t, d, device=report.device).to(dtype)
    truth = exact(inputs, selective_scan_reference, dy)
    y, final, saved = scan.forward(inputs, True)
    grads = scan.backward(inputs, saved, dy, None)
    names = ("y", "final", "du", "ddelta", "dA", "dB", "dC", "dD", "dz", "dbias", "dstate")
    again = scan.backward(inputs, saved, dy, None)
    pairs = zip(names, (y, final, *grads), truth, strict=True)
    found["error"] = {name: relative_error(a, e) for name, a, e in pairs}
    found["same_bits_twice"] = all(torch.equal(a, c) for a, c in zip(grads, again, strict=True))
    worst = max(found["error"], key=found["error"].get)
    report.line(
        f"scan {str(dtype)[6:]:9} error y {found['error']['y']:.1e}, "
        f"worst {worst} {found['error'][worst]:.1e}; same bits twice: {found['same_bits_twice']}"
    )


def conv_error(report: Report, found: dict[str, Any], dtype: torch.dtype) -> None:
    b, t, d = (1, 9, 8) if report.dry else (2, 333, 200)
    state = torch.randn(b, 3, d, device=report.device).to(dtype)
    inputs = conv_inputs(b, t, d, dtype, report.device)._replace(state=state)
    dy = torch.randn(b * t, d, device=report.device).to(dtype)
    truth = exact(inputs, causal_conv1d_reference, dy)
    y, final = conv.forward(inputs)
    grads = conv.backward(inputs, dy, None)
    names = ("y", "final", "dx", "dweight", "dbias", "dstate")
    pairs = zip(names, (y, final, *grads), truth, strict=True)
    found["error"] = {name: relative_error(a, e) for name, a, e in pairs}
    worst = max(found["error"], key=found["error"].get)
    report.line(
        f"conv {str(dtype)[6:]:9} error y {found['error']['y']:.1e}, "
        f"worst {worst} {found['error'][worst]:.1e}"
    )


def scan_times(report: Report, found: dict[str, Any], b: int, t: int, d: int) -> None:
    dtype = torch.float32 if report.dry else torch.bfloat16
    inputs = scan_inputs(b, t, d, dtype, report.device)
    plain = scan_inputs(b, t, d, dtype, report.device, plain=True)
    dy = torch.randn(b * t, d, device=report.device).to(dtype)
    elements, size = b * t * d, dy.element_size()
    found["shape"] = (b, t, d, inputs.n)
    found["segments"] = -(-t // scan.segment_length(inputs, scan.FORWARD))
    saved = scan.forward(inputs, True)[2]
    kept = scan.forward(plain, True)[2]
    found["forward"] = time_calls(lambda: scan.forward(inputs, True), report)
    found["forward plain"] = time_calls(lambda: scan.forward(plain, True), report)
    found["backward"] = time_calls(lambda: scan.backward(inputs, saved, dy, None), report)
    found["backward plain"] = time_calls(lambda: scan.backward(plain, kept, dy, None), report)
    found["forward_bytes"] = 4 * elements * size + saved.numel() * 4
    found["backward_bytes"] = 7 * elements * size + saved.numel() * 4
    found["backward_peak_gib"] = peak_memory(
        lambda: scan.backward(inputs, saved, dy, None), report.device
    )
    for way in ("forward", "backward"):
        ours = found[way].median
        rate = found[f"{way}_bytes"] / ours * 1e3
        text = f"scan {way:8} {b}x{t}x{d}x{inputs.n}: {ours:8.3f} ms, {rate / 1e12:5.2f} TB/s"
        if peer := peers.scan(way, plain, dy):
            found[f"{way} mamba-ssm"] = theirs = time_calls(peer, report)
            text += f"; mamba-ssm {theirs.median:8.3f} ms = {theirs.median / ours:.2f}x ours"
        report.line(text)


def conv_times(report: Report, found: dict[str, Any], b: int, t: int, d: int) -> None:
    dtype = torch.float32 if report.dry else torch.bfloat16
    inputs = conv_inputs(b, t, d, dtype, report.device)
    plain = conv_inputs(b, t, d, dtype, report.device, plain=True)
    dy = torch.randn(b * t, d, device=report.device).to(dtype)
    elements, size = b * t * d, dy.element_size()
    found["shape"] = (b, t, d, inputs.k)
    found["forward"] = time_calls(lambda: conv.forward(inputs), report)
    found["forward plain"] = time_calls(lambda: conv.forward(plain), report)
    found["backward"] = time_calls(lambda: conv.backward(inputs, dy, None), report)
    found["forward_bytes"], found["backward_bytes"] = 2 * elements * size, 3 * elements * size
    for way in ("forward", "backward"):
        ours = found[way].median
        rate = found[f"{way}_bytes"] / ours * 1e3
        text = f"conv {way:8} {b}x{t}x{d}: {ours:8.3f} ms, {rate / 1e12:5.2f} TB/s"
        if peer := peers.conv(way, plain, dy):
            found[f"{way} causal-conv1d"] = theirs = time_calls(peer, report)
            text += f"; causal-conv1d {theirs.median:8.3f} ms = {theirs.median / ours:.2f}x ours"
        report.line(text)
