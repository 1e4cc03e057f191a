"""A whole block: dense and mixtures against each other, against peers, and against the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mixture_of_mamba import MambaBlock, MambaConfig, Routing
from mixture_of_mamba.ops import selective_scan

from .scan import both, inputs
from .timing import Settings, compare, ratio

__all__ = ["blocks", "growth", "peak_gflops", "products", "training_step"]

SIZES = ((8, 512, 128), (4, 1024, 256), (1, 4096, 384))  # batch, length, d_model (inner: twice)


def step(
    b: int, t: int, width: int, m: int, minority: float = 0.5, dtype: torch.dtype = torch.float32
) -> Callable[[], object]:
    """Forward + backward of one block on rows; the last modality has `minority` of the tokens."""
    torch.manual_seed(0)
    split = frozenset() if m == 1 else MambaConfig(d_model=8).split
    block = MambaBlock(MambaConfig(d_model=width, n_modalities=m, split=split)).to(dtype)
    ids = torch.randint(max(1, m - 1), (b, t))
    if m > 1:
        share = 1 / m if minority == 0.5 else minority
        ids[torch.rand(b, t) < share] = m - 1
    routing = Routing.build(ids, m)
    x = torch.randn(b * t, width, dtype=dtype, requires_grad=True)
    dy = torch.randn_like(x)
    wanted = [x, *block.parameters()]
    return lambda: torch.autograd.grad(block(x, routing=routing), wanted, dy)


def mambapy_step(b: int, t: int, width: int) -> Callable[[], object]:
    from mambapy.mamba import MambaConfig as Config
    from mambapy.mamba import ResidualBlock

    block = ResidualBlock(Config(d_model=width, n_layers=1))
    x = torch.randn(b, t, width, requires_grad=True)
    dy = torch.randn_like(x)
    wanted = [x, *block.parameters()]
    return lambda: torch.autograd.grad(block(x), wanted, dy)


def transformers_step(b: int, t: int, width: int) -> Callable[[], object]:
    from transformers import MambaConfig as Config
    from transformers.models.mamba.modeling_mamba import MambaBlock as Block

    block = Block(Config(hidden_size=width, num_hidden_layers=1), layer_idx=0)
    x = torch.randn(b, t, width, requires_grad=True)
    dy = torch.randn_like(x)
    wanted = [x, *block.parameters()]

    def run() -> object:
        y = block(x)
        return torch.autograd.grad(y[0] if isinstance(y, tuple) else y, wanted, dy)

    return run


def scan_of_block(b: int, t: int, width: int) -> Callable[[], object]:
    """The scan as a block calls it: with step bias, softplus and gate."""
    leaves = inputs(b, t, 2 * width)
    leaves["z"] = torch.randn_like(leaves["u"]).requires_grad_()
    leaves["delta_bias"] = torch.zeros(2 * width, requires_grad=True)

    def call(**leaves: Tensor) -> Tensor:
        return selective_scan(**leaves, delta_softplus=True, backend="cpu")[0]

    return both(call, leaves)


def products(b: int, t: int, width: int) -> float:
    """Operations of the four projections' matrix products, forward + backward."""
    d, rank, n = 2 * width, -(-width // 16), 16
    return 3 * 2 * b * t * (width * 2 * d + d * (rank + 2 * n) + rank * d + d * width)


def peak_gflops(settings: Settings) -> dict[str, float]:
    """The best rate of a square float32 product: what the machine gives a matrix library."""
    rates = {}
    for n in (768, 1024, 1536, 2048):
        a, c = torch.randn(n, n), torch.randn(n, n)
        out = torch.empty(n, n)

        def product(a: Tensor = a, c: Tensor = c, out: Tensor = out) -> object:
            return torch.mm(a, c, out=out)

        times = compare({"mm": product}, settings)["mm"]
        rates[str(n)] = 2 * n**3 / times.low / 1e6
    return {**rates, "peak": max(rates.values())}


def blocks(settings: Settings, peak: float) -> list[dict[str, Any]]:
    found = []
    for i, size in enumerate(SIZES[:1] if settings.quick else SIZES):
        calls = {
            "dense": step(*size, 1),
            "2 modalities": step(*size, 2),
            "3 modalities": step(*size, 3),
            "2 modalities, one of 3 %": step(*size, 2, minority=0.03),
            "bfloat16 dense": step(*size, 1, dtype=torch.bfloat16),
            "bfloat16 2 modalities": step(*size, 2, dtype=torch.bfloat16),
            "scan alone": scan_of_block(*size),
            "mamba.py dense": mambapy_step(*size),
        }
        if i == 0:
            calls["transformers dense"] = transformers_step(*size)
        times = compare(calls, settings)
        limit = products(*size) / peak / 1e6 + times["scan alone"].median
        dense = times["dense"].median
        found.append(
            {
                "size": size,
                "ms": {k: v.to_dict() for k, v in times.items()},
                "over dense": {
                    k: ratio(calls[k], calls["dense"], settings).to_dict()
                    for k in ("2 modalities", "3 modalities", "2 modalities, one of 3 %")
                },
                "bfloat16 over float32": ratio(
                    calls["bfloat16 2 modalities"], calls["2 modalities"], settings
                ).to_dict(),
                "times faster than mamba.py": times["mamba.py dense"].median
                / times["2 modalities"].median,
                "limit ms": limit,
                "limit over achieved": limit / dense,
            }
        )
    return found


def growth(settings: Settings) -> dict[str, Any]:
    """Forward + backward of 16,384 tokens as longer and longer sequences."""
    total = 4096 if settings.quick else 16384
    lengths = [n for n in (256, 1024, 4096, 16384) if n <= total]
    calls = {str(n): step(total // n, n, 128, 2) for n in lengths}
    times = compare(calls, settings)
    return {
        "tokens": total,
        "ms": {k: v.to_dict() for k, v in times.items()},
        "longest over 1,024": ratio(calls[str(lengths[-1])], calls["1024"], settings).to_dict(),
    }


def training_step(settings: Settings) -> dict[str, Any]:
    """Forward, backward and AdamW of a small network: 6 blocks of width 96, 12 x 256 tokens."""
    calls = {}
    for name, m in (("dense", 1), ("3 modalities", 3)):
        split = frozenset() if m == 1 else MambaConfig(d_model=8).split
        torch.manual_seed(0)
        config = MambaConfig(d_model=96, n_modalities=m, split=split)
        net = torch.nn.ModuleList(MambaBlock(config) for _ in range(6))
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
        routing = Routing.build(torch.randint(m, (12, 256)), m)
        x = torch.randn(12 * 256, 96)

        def run(
            net: torch.nn.ModuleList = net,
            optimizer: torch.optim.Optimizer = optimizer,
            routing: Routing = routing,
            x: Tensor = x,
        ) -> None:
            rows = x
            for block in net:
                rows = block(rows, routing=routing)
            rows.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        calls[name] = run
    times = compare(calls, settings)
    return {
        "ms": {k: v.to_dict() for k, v in times.items()},
        "mixture over dense": ratio(calls["3 modalities"], calls["dense"], settings).to_dict(),
    }
