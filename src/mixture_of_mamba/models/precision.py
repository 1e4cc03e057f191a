"""Whether bfloat16 is faster than float32 here: measured, because it depends on the machine.

On CPUs with a matrix unit for bfloat16 (AMX) products take a fraction of the time; on those without
one, some of which have bfloat16 instructions nevertheless, they take longer. A measurement takes
about a second and is kept, by machine, in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch

from .. import private
from ..cache_folders import cache_folder
from ..files import write_json
from ..layers import MambaBlock, MambaConfig
from ..layers.fused import block_weights
from ..ops import native
from ..ops.decode_step import DecodeStep

__all__ = ["Measured", "decoding", "kept", "training"]

#: bfloat16 is taken where its time is at most this share of float32's: less gains nothing that its
#: rounding is worth, and a measurement errs by some hundredths.
FASTER = 0.9
SECONDS = 1.0


@dataclass(frozen=True)
class Measured:
    """Time of bfloat16 over that of float32."""

    ratio: float

    @property
    def bfloat16(self) -> bool:
        """Whether bfloat16 is to be taken."""
        return self.ratio <= FASTER

    def __str__(self) -> str:
        taken = "bfloat16" if self.bfloat16 else "float32"
        return f"{taken}: bfloat16 takes {self.ratio:.2f} of float32's time here"


def training(device: str = "cpu", threads: int | None = None) -> Measured:
    """For `train.precision auto`: a mixture block, forward and backward, as autocast runs it.

    Args:
        device: "cpu" or "cuda".
        threads: that the run will have; None: this process's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return _kept_or(f"training on {device}", lambda: _training(device))
    finally:
        torch.set_num_threads(before)


def decoding() -> Measured:
    """For decoding with `weights="auto"` on the CPU: a native step with bfloat16 weights.

    Raises:
        BackendError: the CPU kernels are not available here.
    """
    return _kept_or("decoding on cpu", _decoding)


def kept() -> dict[str, str]:
    """What was measured with this process's threads so far, for `mom env`; nothing is measured."""
    found = _read()
    return {
        what: str(Measured(found[_key(what)])) if _key(what) in found else "not measured yet"
        for what in ("training on cpu", "training on cuda", "decoding on cpu")
        if "cuda" not in what or torch.cuda.is_available()
    }


def _training(device: str) -> float:
    torch.manual_seed(0)
    width, batch, length = (256, 4, 256) if device == "cpu" else (1024, 8, 1024)
    block = MambaBlock(MambaConfig(d_model=width, n_modalities=2)).to(device)
    x = torch.randn(batch, length, width, device=device, requires_grad=True)
    ids = torch.arange(batch * length, device=device).view(batch, length) // 32 % 2

    def step(narrow: bool) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                y = cast(torch.Tensor, block(x, ids))
            y.float().square().mean().backward()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    return _ratio(step(True), step(False))


def _decoding() -> float:
    torch.manual_seed(0)
    config = MambaConfig(d_model=512)
    weights = [block_weights(MambaBlock(config).requires_grad_(False)) for _ in range(8)]

    def token(form: str) -> Callable[[], object]:
        step = DecodeStep(weights, eps=1e-5, weights=form)
        states, x, ids = step.new_states(1), torch.randn(1, 512), torch.zeros(1, dtype=torch.int32)
        return lambda: step(x, ids, states)

    return _ratio(token("bfloat16"), token("float32"))


def _ratio(narrow: Callable[[], object], wide: Callable[[], object]) -> float:
    """Median over groups of a b b a: a machine that is busy for a while is so for both."""
    narrow(), wide()
    ratios: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(ratios) < 3 or time.perf_counter() < end:
        first, second, third, fourth = (_seconds(f) for f in (narrow, wide, wide, narrow))
        ratios.append((first + fourth) / (second + third))
    return statistics.median(ratios)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _kept_or(what: str, measure: Callable[[], float]) -> Measured:
    found, key = _read(), _key(what)
    if key not in found:
        with torch.random.fork_rng():
            ratio = measure()
        found[key] = ratio
        try:
            private.check_folder(cache_folder("measured"))
            write_json(cache_folder("measured") / "precision.json", found)
        except OSError:
            pass  # the next process measures again
    return Measured(found[key])


def _key(what: str) -> str:
    """What a measurement depends on: kernels and CPU, torch, threads, the GPU."""
    gpu = torch.cuda.get_device_name() if what.endswith("cuda") else ""
    parts = [native.library_name(), torch.__version__, torch.get_num_threads(), gpu]
    return f"{what} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _read() -> dict[str, float]:
    path = cache_folder("measured") / "precision.json"
    try:
        folder = private.open_folder(path.parent)
        try:
            with os.fdopen(private.open_file(path.name, folder, path)) as file:
                found = json.load(file)
        finally:
            os.close(folder)
    except (OSError, ValueError):  # none yet, not ours, or damaged: measured again
        return {}
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float)}
