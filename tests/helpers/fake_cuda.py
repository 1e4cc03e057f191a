"""A CUDA device for fake tensors, in a process that has none: shapes, dtypes and devices are real,
values are not, and what would wait for the device raises.

`install` changes torch for the whole process, so it belongs into a process of its own. Inside
`running(...)` the bodies of our custom ops run too, down to the launches of their kernels, which
are checked and counted instead of made.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

__all__ = ["Launches", "compile_runtime", "install", "running"]

TORCH = Path(torch.__file__).parent
OPS = "mixture_of_mamba.ops"
KERNELS = {
    f"{OPS}.selective_scan.triton_forward": ["scan_forward_kernel"],
    f"{OPS}.selective_scan.triton_backward": ["scan_backward_kernel"],
    f"{OPS}.selective_scan.triton_pack": ["pack_kernel", "reduce_kernel"],
    f"{OPS}.selective_scan.triton_segments": [
        *("carry_kernel", "segment_gradient_kernel", "segment_state_kernel")
    ],
    f"{OPS}.causal_conv1d.triton_kernels": ["conv_forward_kernel", "conv_backward_kernel"],
}
BODIES = {
    f"{OPS}.selective_scan.op": {
        "selective_scan": "scan",
        "selective_scan_backward": "scan_backward",
    },
    f"{OPS}.causal_conv1d.op": {"causal_conv1d": "conv", "causal_conv1d_backward": "conv_backward"},
    f"{OPS}.modality_linear.op": {
        "modality_linear": "linear",
        "modality_linear_backward": "linear_backward",
    },
    f"{OPS}.cross_entropy.op": {
        "linear_cross_entropy": "head_loss",
        "linear_cross_entropy_backward": "head_loss_backward",
    },
}  # fmt: skip
_runtime: Any = None


def compile_runtime(folder: Path) -> Path:
    """The compiled stand-in for the CUDA runtime.

    Raises:
        RuntimeError: there is no C++ compiler, or it cannot compile against this torch.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        raise RuntimeError("no C++ compiler")
    library, source = folder / "fake_cuda.so", Path(__file__).with_suffix(".cpp")
    command = [compiler, "-std=c++20", "-O0", "-fPIC", "-shared", source, "-o", library]
    command += [f"-I{TORCH / 'include'}", f"-L{TORCH / 'lib'}", "-lc10", "-ltorch_cpu"]
    command += [f"-Wl,-rpath,{TORCH / 'lib'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return library


def install(library: Path, capability: tuple[int, int] = (9, 0)) -> None:
    """Two devices that look like H100s to whoever asks torch. The library must have been loaded
    before torch was (LD_PRELOAD), which asks once for devices."""
    global _runtime
    _runtime = ctypes.CDLL(str(library))
    torch.cuda._exchange_device = _runtime.exchange_device
    torch.cuda._maybe_exchange_device = _runtime.exchange_device
    torch.cuda.get_device_capability = lambda device=None: capability
    properties = SimpleNamespace(multi_processor_count=132)
    torch.cuda.get_device_properties = lambda device=None: properties
    torch.cuda.is_bf16_supported = lambda *_: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False


class Launches:
    """Kernels by name, and how often each was launched; grouped products that wait for the device
    by torch's own choice."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.waiting_products = 0

    def kernel(self, name: str, real: Any) -> Any:
        launches = self

        class Kernel:
            arg_names = real.arg_names

            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                return lambda *args, **kwargs: launches.check(
                    name, self.arg_names, grid, args, kwargs
                )

        return Kernel()

    def check(
        self, name: str, wanted: list[str], grid: tuple[int, ...], args: Any, kwargs: dict[str, Any]
    ) -> None:
        """What CUDA and Triton would refuse."""
        options = {"num_warps", "num_stages", "enable_fp_fusion"}
        given = [*wanted[: len(args)], *(k for k in kwargs if k not in options)]
        assert sorted(given) == sorted(wanted), f"{name}: {set(given) ^ set(wanted)}"
        limits = (2**31 - 1, 65_535, 65_535)
        assert all(0 < g <= m for g, m in zip(grid, limits, strict=False)), f"{name}: grid {grid}"
        device = torch.device("cuda", _runtime.exchange_device(-1))
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                assert x.device == device, (
                    f"{name} launched on {device} with a tensor on {x.device}"
                )
        self.counts[name] += 1


class _Bodies(TorchDispatchMode):
    """Runs what a custom op does on the device, next to what it says that it does; the two must
    agree. Copies between host and device, which wait for it, raise where `strict`."""

    def __init__(self, launches: Launches, strict: bool) -> None:
        super().__init__()
        self.launches, self.strict = launches, strict
        self.bodies = {}
        for module, table in BODIES.items():
            for op, name in table.items():
                overload = getattr(torch.ops.mixture_of_mamba, op).default
                self.bodies[overload] = getattr(import_module(module), name)._init_fn

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        real = given and not any(isinstance(x, FakeTensor) for x in given)
        moves = func is torch.ops.aten._to_copy.default
        if real and not moves and func not in self.bodies:
            with _disable_current_modes():  # numbers that the host knows
                return func(*args, **(kwargs or {}))
        if func is torch.ops.aten._grouped_mm.default:
            result = self._grouped_product(*args[:3])
        else:
            result = func(*args, **(kwargs or {}))
        if func in self.bodies:
            with self:
                done = self.bodies[func](*args, **(kwargs or {}))
            for a, b in zip(tree_leaves(done), tree_leaves(result), strict=True):
                found = [(x.dtype, x.shape, x.stride(), x.device) for x in (a, b)]
                assert found[0] == found[1], f"{func}: {found[0]} on the device, {found[1]} said"
        if self.strict and func not in self.bodies:  # these may read what the host knows
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim]
            outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
            kinds = {x.device.type for x in (*inputs, *outputs)}
            assert len(kinds) < 2, f"{func} waits for a copy between {' and '.join(sorted(kinds))}"
        return result

    def _grouped_product(self, a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
        """F.grouped_mm: what the device refuses, and its result in any dtype that it serves
        (torch's fake knows bfloat16 only)."""
        assert offs.dtype == torch.int32 and a.dtype == b.dtype
        assert a.numel() and b.numel(), "no stride of an empty matrix is accepted"
        for x in (a, b):
            size = x.element_size()
            apart = [stride * size % 16 for stride in x.stride()[-2:] if stride != 1]
            assert len(apart) == 1 and not apart[0], f"strides {x.stride()}"
            assert not x.storage_offset() * size % 16, f"starts at element {x.storage_offset()}"
        if a.dtype == torch.bfloat16:
            return torch.ops.aten._grouped_mm.default(a, b, offs)
        self.launches.waiting_products += 1
        if b.ndim == 2:
            return a.new_empty(len(offs), a.shape[0], b.shape[1])
        return a.new_empty(a.shape[0], b.shape[-1])


@contextmanager
def running(*, strict: bool = True) -> Iterator[Launches]:
    """Run the ops' own code and count its launches; enter it inside a FakeTensorMode."""
    launches, before = Launches(), []
    for module_name, names in KERNELS.items():
        module = import_module(module_name)
        for name in names:
            real = getattr(module, name)
            before.append((module, name, real))
            setattr(module, name, launches.kernel(name, real))
    try:
        with _Bodies(launches, strict):
            yield launches
    finally:
        for module, name, real in before:
            setattr(module, name, real)
