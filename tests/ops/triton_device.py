"""Where the tests of Triton backends run: on a GPU, or in Triton's interpreter on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixture_of_mamba.ops import Routing

__all__ = ["DEVICE", "interpreter", "to_device"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import this into a test module; without a GPU its kernels are interpreted (float32 only: the
    interpreter's products of bfloat16 are wrong)."""
    pytest.importorskip("triton")
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


def to_device(routing: Routing) -> Routing:
    names = ("order", "rows", "modality", "offsets", "resets")
    tensors = {name: getattr(routing, name) for name in names}
    return replace(routing, **{k: x if x is None else x.to(DEVICE) for k, x in tensors.items()})
