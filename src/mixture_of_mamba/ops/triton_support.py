"""What the Triton backends ask before they serve; nothing here imports triton for a CPU tensor."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .. import private
from .routing import RowIndex

__all__ = [
    "MAX_GRID",
    "LaunchConfig",
    "as_bytes",
    "capability",
    "capturing",
    "contiguous",
    "interpreting",
    "keep_cache_private",
    "multiprocessors",
    "on_device",
    "why_not_triton",
    "without_steps",
]

Gradients = TypeVar("Gradients", bound=Any)

#: bf16 arithmetic, tf32 products and asynchronous copies start with Ampere.
_MIN_CAPABILITY = (8, 0)
#: Programs along the second and the third axis of a launch.
MAX_GRID = (1 << 16) - 1
#: dtypes of the kernels' inputs.
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class LaunchConfig(NamedTuple):
    """Channels a program, warps a program, steps a tile."""

    block: int
    warps: int
    steps: int


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter, on CPU tensors (for tests; very slow)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not_triton(name: str, x: Tensor, row_index: RowIndex) -> str | None:
    """Why the kernels cannot serve such rows, called `name` in the reason; None where they can."""
    if reason := _device_why_not(x):
        return reason
    if x.dtype not in _DTYPES:
        return f"{name} is {x.dtype}; it serves float32, bfloat16 and float16"
    if row_index.batch > MAX_GRID:
        return f"the batch has {row_index.batch} sequences; it serves at most {MAX_GRID}"
    return None


def _device_why_not(x: Tensor) -> str | None:
    """Why Triton cannot serve tensors like x; None where it can."""
    if x.device.type == "cpu":
        if not interpreting():
            return "it needs a CUDA tensor, and this one is on the CPU"
        return None if _has_triton() else "the package triton is not installed"
    if x.device.type != "cuda":
        return f"it needs a CUDA tensor, and this one is on {x.device.type}"
    return _cuda_why_not(x.device.index or 0)


def on_device(x: Tensor) -> AbstractContextManager[object]:
    """Launch inside this: Triton launches on the current device, wherever the tensors are."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


def contiguous(x: Tensor | None) -> Tensor | None:
    """What a kernel may read as flat memory."""
    return None if x is None else x.contiguous()


def as_bytes(marks: Tensor | None) -> Tensor | None:
    """Booleans as the kernels read them."""
    return None if marks is None else marks.contiguous().view(torch.uint8)


def without_steps(inputs: Any, gradients: type[Gradients], dfinal: Tensor | None) -> Gradients:
    """Gradients of a call without time or batch: all zero, and the final state is the first."""
    found = {name: getattr(inputs, name) for name in gradients._fields}
    found = {name: None if x is None else torch.zeros_like(x) for name, x in found.items()}
    if inputs.state is not None and dfinal is not None:
        found["state"] = dfinal.clone()
    return gradients(**found)


def capturing() -> bool:
    """Whether the current stream is recorded into a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@cache
def _cuda_why_not(index: int) -> str | None:
    if not _has_triton():
        return "the package triton is not installed; pip install triton"
    version = capability(torch.device("cuda", index))
    if torch.version.hip is None and version < _MIN_CAPABILITY:
        found = ".".join(map(str, version))
        return f"it needs compute capability 8.0 or newer, and the device has {found}"
    keep_cache_private()
    return None


def keep_cache_private() -> None:
    """Triton loads compiled code from its cache and does not ask whose it is: where that folder is
    somebody else's, or others can write it, this process gets a new private one."""
    from triton import knobs

    try:
        private.check_folder(Path(knobs.cache.dir))
    except OSError as problem:
        folder = tempfile.mkdtemp(prefix="mixture_of_mamba-triton-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        knobs.cache.dir = folder
        warnings.warn(
            f"Triton's kernels are compiled anew by every process, because {problem}; a folder of "
            "your own as TRITON_CACHE_DIR keeps them",
            stacklevel=2,
        )


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of a GPU; an H100's where there is none."""
    if device.type != "cuda":
        return 9, 0
    return torch.cuda.get_device_capability(device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; an H100's count where there is none, so that shapes chosen offline
    are those of the device the kernels are tuned for."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count
