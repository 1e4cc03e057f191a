"""What decides which code runs here and how fast: versions, devices, threads, backends, caches."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from .._version import __version__
from ..cache_folders import Kind, cache_folder
from ..evaluation.machine import machine
from ..extras import package_versions
from ..models import precision
from ..ops import native
from ..private import check_folder
from ..startup import SETTINGS, WAITING, granted_cores, usable_cores
from . import allocator
from .backend_facts import backends, fused_block

__all__ = ["environment"]

#: Packages whose versions are shown.
PACKAGES = (
    *("torch", "numpy", "safetensors", "lightning", "tokenizers", "diffusers"),
    *("transformers", "triton", "scikit-learn", "espeakng-loader", "pyarrow", "soundfile"),
    "tensorboard",
)
#: How the settings of `mom`'s process are had in other programs.
IN_PROGRAMS = (
    "in your own programs: the same threads and waiting if mixture_of_mamba is imported before "
    "torch, else OpenMP's defaults (set " + ", ".join(f"{k}={v}" for k, v in WAITING.items()) + " "
    "before Python starts)"
)
#: Names in /proc/cpuinfo of the vector units that the kernels can use.
VECTOR_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")


def environment() -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "packages": package_versions(PACKAGES),
        "machine": machine() | {"cpu_flags": " ".join(_cpu_flags()) or "unknown"},
        "threads": {
            "torch": torch.get_num_threads(),
            "interop": torch.get_num_interop_threads(),
            "usable_cores": usable_cores(),
            "quota": granted_cores(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "bfloat16": precision.kept(),
        "process": [*SETTINGS, *allocator.SETTINGS, IN_PROGRAMS],
        "devices": _devices(),
        "backends": {device: backends(device) for device in _devices()},
        "fused_block_on_cpu": fused_block(),
        "kernels": {"compiler": native.find_compiler(), "cpu": native.describe()},
        "caches": {kind: _cache(cache_folder(kind)) for kind in get_args(Kind)},
    }


def _cpu_flags() -> list[str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return []
    for line in path.read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return [flag for flag in VECTOR_FLAGS if flag in value.split()]
    return []


def _devices() -> dict[str, str]:
    devices = {"cpu": machine()["processor"]}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            devices["cuda" if i == 0 else f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return devices


def _cache(folder: Path) -> str:
    """The folder with the size of its files, or why it is not used."""
    if not folder.is_dir():
        return f"{folder} (empty)"
    try:
        check_folder(folder)
    except OSError as problem:
        return f"not used: {problem}"
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return f"{folder} ({size / 2**20:.0f} MiB)"
