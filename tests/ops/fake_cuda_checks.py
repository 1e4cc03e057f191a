"""Checks on a device that is not there; run by test_fake_cuda.py in a process of its own.

    python tests/ops/fake_cuda_checks.py LIBRARY

Prints one JSON object: name of a check -> "" or the traceback of its failure.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from mixture_of_mamba import Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.batch import Batch, _RowEnds
from mixture_of_mamba.layers import MambaBlock, MambaConfig
from mixture_of_mamba.models import ModelState
from mixture_of_mamba.ops import (
    BackendError,
    Routing,
    causal_conv1d,
    dispatch,
    modality_linear,
    selective_scan,
)
from mixture_of_mamba.ops.causal_conv1d import ConvInputs
from mixture_of_mamba.ops.modality_linear import LinearInputs
from mixture_of_mamba.ops.routing import RowIndex
from mixture_of_mamba.ops.selective_scan import ScanInputs
from tests.helpers.fake_cuda import install, running
from tests.ops import gpu_cases, scan_cases

B, T = 2, 150
CHECKS: dict[str, Callable[[], None]] = {}
CUDA = torch.device("cuda", 0)


def check(function: Callable[..., None], **cases: dict[str, Any]) -> None:
    for case, options in cases.items():
        CHECKS[f"{function.__name__}: {case}"] = partial(function, **options)


def config(modalities: int, continuous: bool = False, **options: Any) -> ModelConfig:
    kinds = [Modality("text", "discrete", 30), Modality("image", "discrete", 20)]
    kinds = [*kinds, Modality("speech", "discrete", 10)][:modalities]
    if continuous:
        kinds = [*kinds, Modality("picture", "continuous", 6)]
    return ModelConfig(d_model=24, head_dim=8, n_layers=2, d_state=16, modalities=kinds, **options)


def batch_of(config: ModelConfig) -> Batch:
    g = torch.Generator().manual_seed(0)
    m = len(config.modalities)
    ids = torch.randint(m, (B, T // 5), generator=g).repeat_interleave(5, 1)
    discrete = torch.tensor([v.discrete for v in config.modalities])
    tokens = torch.randint(10, (B, T), generator=g) * discrete[ids]
    values = {v.name: torch.randn(int((ids == i).sum()), v.size, generator=g)
              for i, v in enumerate(config.modalities) if not v.discrete}  # fmt: skip
    documents = (torch.rand(B, T, generator=g) < 0.05).cumsum(1)
    return Batch(tokens=tokens, modality_ids=ids, document_ids=documents, values=values)


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """The model's parameters and buffers replaced by fake ones on the device."""
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, x in table.items():
                if x is not None and id(x) not in memo:
                    y = torch.empty(x.shape, dtype=x.dtype, device=device)
                    memo[id(x)] = nn.Parameter(y) if isinstance(x, nn.Parameter) else y
                if x is not None:
                    table[name] = memo[id(x)]
    return model


def step(model: MultimodalModel, batch: Batch, autocast: bool, **options: Any) -> dict[str, Any]:
    """dtype, shape of what a training step gives, by name."""
    device = batch.tokens.device
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        out = model(batch, **options)
    out.loss.backward()
    found = {"loss": out.loss, "totals": out.totals, "counts": out.counts}
    found |= {f"d {name}": p.grad for name, p in model.named_parameters()}
    if out.logits is not None:
        found["logits"] = out.logits
    for i, block in enumerate(out.state or ()):
        found |= {f"state {i} conv": block.conv, f"state {i} ssm": block.ssm}
    assert all(x.device == device for x in found.values())
    return {name: (x.dtype, tuple(x.shape)) for name, x in found.items()}


def training(
    modalities: int,
    *,
    autocast: bool = True,
    recompute: bool = False,
    state: bool = False,
    warm: int = 0,
    counted: bool = False,
    **options: Any,
) -> None:
    c = config(modalities, **options)
    model, batch = MultimodalModel(c), batch_of(c)
    model.backbone.checkpoint_activations = recompute
    dtype = torch.bfloat16 if autocast else torch.float32
    begin = ModelState.zeros(c, B, dtype=dtype) if state else None
    more = {"return_logits": True, "return_state": c.mixer == "mamba"}
    expected = step(model, batch, autocast, state=begin, **more)
    ends = batch.to("meta").row_ends
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        moved(model, CUDA)
        there = Batch(
            **{k: mode.from_tensor(v).to(CUDA)
               for k, v in vars(batch).items() if isinstance(v, Tensor)},
            values={k: mode.from_tensor(v).to(CUDA) for k, v in batch.values.items()},
        )  # fmt: skip
        if counted:  # as `Batch.to` does, which counts what is on the host
            there = replace(there, _row_ends=_RowEnds.of(ends, there.modality_ids))
        begin = ModelState.zeros(c, B, dtype=dtype, device=CUDA) if state else None
        for _ in range(warm):  # what a first step may copy to the device once
            with running(strict=False):
                step(model, there, autocast, state=begin, **more)
        with running() as launches:
            found = step(model, there, autocast, state=begin, **more)
    assert found == expected, {
        k: (found.get(k), v) for k, v in expected.items() if found.get(k) != v
    }
    # only in bfloat16 has F.grouped_mm a kernel that reads the counts on the device; counts that
    # the host knows are not asked for
    split = bool(c.split) and len(c.modalities) > 1
    assert bool(launches.waiting_products) is (split and not autocast and not counted)
    if c.mixer == "mamba":
        for kernel in ("scan_forward_kernel", "scan_backward_kernel", "conv_backward_kernel"):
            assert launches.counts[kernel] == 2, launches.counts
        # a recomputed block keeps its scan, and computes its convolution again
        assert launches.counts["conv_forward_kernel"] == (4 if recompute else 2), launches.counts


check(
    training,
    dense={"modalities": 1},
    dense_split_none={"modalities": 2, "split": "none"},
    mixture_of_2={"modalities": 2},
    mixture_of_3={"modalities": 3},
    float32={"modalities": 3, "autocast": False},
    counted={"modalities": 3, "counted": True},
    counted_float32={"modalities": 3, "autocast": False, "counted": True},
    counted_recomputed_float32={
        "modalities": 2, "recompute": True, "autocast": False, "counted": True,
    },
    separate={"modalities": 3, "vocabulary": "separate"},
    recomputed={"modalities": 2, "recompute": True},
    recomputed_float32={"modalities": 2, "recompute": True, "autocast": False},
    from_a_state={"modalities": 2, "state": True},
    from_a_state_recomputed={"modalities": 2, "state": True, "recompute": True},
    transfusion={"modalities": 1, "continuous": True, "warm": 1},
    transfusion_v={"modalities": 1, "continuous": True, "warm": 1,
                   "diffusion": {"prediction": "v"}},
    transfusion_flow={
        "modalities": 1, "continuous": True, "warm": 1, "diffusion": {"prediction": "flow"},
    },
    transformer={"modalities": 2, "mixer": "attention"},
)  # fmt: skip


def advancing(modalities: int) -> None:
    """Prefill, a chunk and single tokens, without reading anything back."""
    model, state = MultimodalModel(c := config(modalities)).eval().bfloat16(), None
    with FakeTensorMode(), running() as launches:
        moved(model, CUDA)
        for length in (T, 7, 1, 1):
            ids = torch.zeros(B, length, dtype=torch.int64, device=CUDA)
            logits, state = model.advance(ids, ids, state)
            assert logits.shape == (B, c.vocabulary_size) and logits.device == CUDA
    assert launches.counts["scan_forward_kernel"] == 8
    assert state.position.device == CUDA


check(advancing, dense={"modalities": 1}, mixture={"modalities": 3})


def another_device() -> None:
    """Kernels launch where their tensors are, whatever device is current."""
    device = torch.device("cuda", 1)
    block = MambaBlock(MambaConfig(d_model=24, n_modalities=2))
    with FakeTensorMode(), running() as launches:
        moved(block, device)
        x = torch.empty(1, 1024, 24, device=device)  # long enough to be cut into segments
        ids = torch.zeros(1, 1024, dtype=torch.int64, device=device)
        with torch.autocast("cuda", torch.bfloat16):
            block(x, ids).sum().backward()
    assert len(launches.counts) == 9, launches.counts


check(another_device, cuda_1={})


def scan_inputs(b: int, t: int, d: int, n: int = 16) -> ScanInputs:
    rows = torch.empty(b * t, 2 * d, dtype=torch.bfloat16, device=CUDA)
    maps = torch.empty(b * t, d // 16 + 2 * n, dtype=torch.bfloat16, device=CUDA)
    u, z, A = rows[:, :d], rows[:, d:], torch.empty(d, n, device=CUDA)
    B, C = maps[:, -2 * n : -n], maps[:, -n:]
    return ScanInputs(u, u, A, B, C, None, z, None, None, RowIndex(None, None, None, b, t), False)


def scan_size(b: int, t: int, d: int, n: int, serves: bool) -> None:
    with FakeTensorMode(), running() as launches:
        x = scan_inputs(b, t, d, n)
        name, backend = dispatch.choose("selective_scan", x)
        assert (name == "triton") is serves, name
        if serves:
            _, _, saved = backend.forward(x, True)
            backend.backward(x, saved, x.u, None)
            assert launches.counts["scan_backward_kernel"] == 1


def conv_size(b: int, t: int, d: int, serves: bool) -> None:
    with FakeTensorMode(), running() as launches:
        x = torch.empty(b * t, d, dtype=torch.bfloat16, device=CUDA)
        index = RowIndex(None, None, None, b, t)
        inputs = ConvInputs(x, torch.empty(d, 4, device=CUDA), None, None, index, True)
        name, backend = dispatch.choose("causal_conv1d", inputs)
        assert (name == "triton") is serves, name
        if serves:
            backend.forward(inputs)
            backend.backward(inputs, x, None)
            assert launches.counts["conv_backward_kernel"] == 1


check(
    scan_size,
    large={"b": 8, "t": 4096, "d": 4096, "n": 16, "serves": True},
    wide_offsets={"b": 64, "t": 8192, "d": 8192, "n": 16, "serves": True},
    long={"b": 1, "t": 1 << 22, "d": 128, "n": 16, "serves": True},
    long_with_many_states={"b": 1, "t": 1 << 24, "d": 32, "n": 64, "serves": False},
    many_sequences={"b": 65_535, "t": 4, "d": 32, "n": 16, "serves": True},
    too_many_sequences={"b": 65_536, "t": 4, "d": 32, "n": 16, "serves": False},
    too_many_rows={"b": 64, "t": 1 << 20, "d": 16, "n": 16, "serves": False},
)
check(
    conv_size,
    large={"b": 8, "t": 4096, "d": 4096, "serves": True},
    too_many_sequences={"b": 65_536, "t": 4, "d": 32, "serves": False},
    too_long={"b": 1, "t": 65_536 * 64, "d": 32, "serves": False},
)


def tests_for_a_gpu(name: str) -> None:
    """The helper that tests/gpu use puts everything on the device, in every dtype."""
    case = gpu_cases.CASES[name]
    values = {"scan": scan_cases.scan_inputs(case), "conv": scan_cases.conv_inputs(case)}
    real, tensors = case.routing(), ("order", "rows", "modality", "offsets", "resets")
    with FakeTensorMode(), running(strict=False) as launches:
        fakes = {k: v if (v := getattr(real, k)) is None else empty_like(v) for k in tensors}
        routing = replace(real, **fakes, host_offsets=None)
        for dtype in (torch.bfloat16, torch.float32):
            for op, function in (("scan", selective_scan), ("conv", causal_conv1d)):
                inputs = {k: v if v is None else empty_like(v) for k, v in values[op].items()}
                given = gpu_cases.dtypes_of(dtype) | (
                    {"state": torch.float32} if op == "scan" else {}
                )
                options = {"routing": routing, "backend": "triton"}
                found = scan_cases.gradients(function, inputs, given, **options)
                assert {x.device for x in found.values()} == {CUDA}
    assert launches.counts["scan_backward_kernel"] == 2
    assert launches.counts["conv_backward_kernel"] == 2


def empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=CUDA)


check(tests_for_a_gpu, **{name: {"name": name} for name in gpu_cases.CASES})


def projection(rows: int, width: int, out: int, dtype: torch.dtype, start: int = 0) -> None:
    """Sizes, strides and starts that F.grouped_mm does not take are padded or copied."""
    with FakeTensorMode(), running():
        routing = Routing.build(torch.zeros(1, rows, dtype=torch.int64, device=CUDA), 3)
        flat = torch.empty(start + 3 * out * width, dtype=dtype, device=CUDA)
        weight = flat[start:].view(3, out, width).requires_grad_()
        wide = torch.empty(rows, start + width, dtype=dtype, device=CUDA)
        x, bias = wide[:, start:].requires_grad_(), torch.empty(3, out, dtype=dtype, device=CUDA)
        y = modality_linear(x, weight, bias.requires_grad_(), routing=routing)
        assert y.shape == (rows, out) and y.is_contiguous()
        dx, dw, db = torch.autograd.grad(y, [x, weight, bias], torch.empty_like(y))
        assert (dx.shape, dw.shape, db.shape) == (x.shape, weight.shape, bias.shape)


ODD = {"rows": 17, "width": 7, "out": 5}
check(
    projection,
    even={"rows": 64, "width": 32, "out": 48, "dtype": torch.bfloat16},
    odd={**ODD, "dtype": torch.bfloat16},
    odd_float32={**ODD, "dtype": torch.float32},
    unaligned_views={"rows": 64, "width": 32, "out": 48, "dtype": torch.bfloat16, "start": 3},
    one_row={"rows": 1, "width": 32, "out": 48, "dtype": torch.bfloat16},
    no_rows={"rows": 0, "width": 32, "out": 48, "dtype": torch.bfloat16},
)


def choice() -> None:
    """What CUDA tensors get without asking, and why not the others."""
    with FakeTensorMode():
        x = scan_inputs(1, 8, 32)
        assert dispatch.choose("selective_scan", x)[0] == "triton"
        conv = ConvInputs(x.u, torch.empty(32, 4, device=CUDA), None, None, x.row_index, True)
        assert dispatch.choose("causal_conv1d", conv)[0] == "triton"
        offsets = torch.empty(2, dtype=torch.int32, device=CUDA)
        linear = LinearInputs(x.u, torch.empty(2, 8, 32, device=CUDA), None, offsets, None)
        assert dispatch.choose("modality_linear", linear)[0] == "grouped"
        dispatch._EXPLAINED.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                assert dispatch.choose("selective_scan", scan_inputs(1, 8, 32, 65))[0] == "torch"
        assert len(caught) == 1 and "65 states" in str(caught[0].message), caught


def refused(expected: type[Exception], text: str, call: Callable[[], object]) -> None:
    with FakeTensorMode():
        try:
            call()
        except expected as error:
            assert text in str(error), str(error)
            return
    raise AssertionError(f"no {expected.__name__}")


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16, device: Any = CUDA) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def scan(n: int = 16, dtype: torch.dtype = torch.bfloat16, **others: Any) -> object:
    u, maps = empty(1, 8, 32), empty(1, 8, n)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    given = {"u": u, "delta": u, "A": empty(32, n, dtype=wide), "B": maps, "C": maps}
    given |= {k: v() for k, v in others.items() if callable(v)}
    return selective_scan(**given, backend=others.get("backend"))


def linear(host: bool, backend: str, dtype: torch.dtype) -> object:
    routing = Routing.build(torch.zeros(1, 8, dtype=torch.int64, device=CUDA), 2)
    return modality_linear(
        empty(8, 32, dtype=dtype), empty(2, 8, 32, dtype=dtype), routing=routing, backend=backend
    )


CHECKS["choice"] = choice
check(
    refused,
    states={"expected": BackendError, "text": "at most 64 in registers; 'torch' or 'reference' can",
            "call": partial(scan, 65, backend="triton")},
    cpu_backend={"expected": BackendError, "text": "'triton' or 'torch' or 'reference' can",
                 "call": partial(scan, backend="cpu")},
    cpu_tensor={"expected": BackendError, "text": "it needs a CUDA tensor, and this one",
                "call": lambda: causal_conv1d(empty(1, 8, 32, device="cpu"),
                                              empty(32, 4, device="cpu"), backend="triton")},
    dtypes={"expected": TypeError, "text": "delta is torch.float32, but u is torch.bfloat16",
            "call": partial(scan, delta=lambda: empty(1, 8, 32, dtype=torch.float32))},
    devices={"expected": ValueError, "text": "B is on cpu, but u is on cuda:0; use one device",
             "call": partial(scan, B=lambda: empty(1, 8, 16, device="cpu"))},
    taps={"expected": BackendError, "text": "9 taps; it keeps at most 8",
          "call": lambda: causal_conv1d(empty(1, 8, 32), empty(32, 9), backend="triton")},
    loop={"expected": BackendError, "text": "needs the row counts on the host",
          "call": partial(linear, True, "loop", torch.bfloat16)},
    float64={"expected": BackendError, "text": "F.grouped_mm has no torch.float64",
             "call": partial(linear, True, "grouped", torch.float64)},
)  # fmt: skip


def main() -> None:
    install(Path(sys.argv[1]))
    found = {}
    for name, body in CHECKS.items():
        try:
            body()
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc()[-4000:]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
