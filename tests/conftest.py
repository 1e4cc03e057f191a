"""Every test runs on one thread and from the same seed; uninitialised memory is poisoned."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Whether Triton's own functions can be interpreted is settled when triton is first imported.
    # Kernels are interpreted in tests that ask for it (tests/ops/triton_device.py).
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        import triton.language  # noqa: F401
    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same draws in every order of tests; what an op forgets to write shows as NaN."""
    torch.manual_seed(0)
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before
