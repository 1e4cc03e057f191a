"""`mom env`: what is active here, and why what is not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from .._version import __version__
from ..cache_folders import cache_folder
from ..evaluation.machine import machine
from ..layers import MambaBlock, MambaConfig
from ..layers.fused import block_weights
from ..models import precision
from ..ops import Routing, dispatch, mamba_block, native
from ..ops.causal_conv1d.inputs import ConvInputs
from ..ops.modality_linear.inputs import LinearInputs
from ..ops.selective_scan.inputs import ScanInputs
from ..private import check_folder
from ..startup import WAITING, granted_cores, usable_cores
from . import process

__all__ = ["HELP", "configure", "environment", "run"]

HELP = (
    "Show versions, devices, threads, the backend of each op that is active here and why the "
    "others are not, the compiler, and the caches."
)
PACKAGES = (
    *("torch", "numpy", "safetensors", "lightning", "jsonargparse", "tokenizers", "diffusers"),
    *("transformers", "triton", "scikit-learn", "espeakng-loader", "pyarrow", "soundfile"),
    "tensorboard",
)
IN_PROGRAMS = (
    "in your own programs: threads and waiting the same where mixture_of_mamba is imported before "
    "torch, else as OpenMP has them (" + ", ".join(f"{k}={v}" for k, v in WAITING.items()) + " "
    "before Python starts sets them)"
)
#: /proc/cpuinfo's names of the vector units that the kernels can use.
VECTOR_FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")


def configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    facts = environment()
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def environment() -> dict[str, Any]:
    """Everything that decides what runs here, as plain values."""
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "packages": _packages(),
        "machine": machine() | {"cpu_flags": " ".join(_cpu_flags()) or "unknown"},
        "threads": {
            "torch": torch.get_num_threads(),
            "interop": torch.get_num_interop_threads(),
            "usable_cores": usable_cores(),
            "quota": granted_cores(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "bfloat16": precision.kept(),
        "process": [*process.settings(), IN_PROGRAMS],
        "devices": _devices(),
        "backends": {device: _backends(device) for device in _devices()},
        "fused_block_on_cpu": _fused_block(),
        "kernels": {"compiler": native.find_compiler(), "cpu": native.describe()},
        "caches": {
            "kernels": _cache(cache_folder("native")),
            "data": _cache(cache_folder("data")),
            "measured": _cache(cache_folder("measured")),
        },
    }


def _packages() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


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


def _backends(device: str) -> dict[str, dict[str, Any]]:
    """By op: the backend that float32 training on this device takes, and what the others lack."""
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


def _fused_block() -> str:
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


def _cache(folder: Path) -> str:
    """The folder and what lies in it."""
    if not folder.is_dir():
        return f"{folder} (empty)"
    try:
        check_folder(folder)
    except OSError as problem:
        return f"not used: {problem}"
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return f"{folder} ({size / 2**20:.0f} MiB)"


def _text(facts: dict[str, Any]) -> str:
    lines = [f"mixture-of-mamba {facts['version']}, Python {facts['python']}"]
    packages = {k: v or "not installed" for k, v in facts["packages"].items()}
    sections = {
        "packages": packages,
        "machine": facts["machine"],
        "devices": facts["devices"],
        "threads": facts["threads"],
        "kernels": facts["kernels"],
        "caches": facts["caches"],
        "bfloat16 (what precision auto and weights auto take)": facts["bfloat16"],
    }
    for title, section in sections.items():
        lines += ["", title, *(f"  {k:<16}{v}" for k, v in section.items())]
    lines += ["", "process", *(f"  {setting}" for setting in facts["process"])]
    for device, ops in facts["backends"].items():
        lines += ["", f"backends on {device}"]
        for op, backend in ops.items():
            lines.append(f"  {op:<16}{backend['active']}")
            lines += [f"    not {name}: {why}" for name, why in backend["others"].items()]
        if device == "cpu":
            lines.append(f"  whole block as one op: {facts['fused_block_on_cpu']}")
    return "\n".join(lines)
