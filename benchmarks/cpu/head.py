"""The cross entropy of the head by the CPU's kernel, against torch's operations on all logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from mixture_of_mamba import Batch, Modality, ModelConfig, MultimodalModel
from mixture_of_mamba.models import vocabulary
from mixture_of_mamba.ops.cross_entropy import linear_cross_entropy

from .timing import Settings, ratio

__all__ = ["head"]

WINDOWS, LENGTH, WIDTH = 12, 256, 96
SIZES = (1025, 513, 257)  # of the demo's vocabularies, with their end tokens


def head(settings: Settings) -> dict[str, Any]:
    """Forward and backward of the loss alone, and in a training step, at the demo's sizes."""
    found: dict[str, Any] = {"size": (WINDOWS * LENGTH, WIDTH, sum(SIZES))}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        ours, theirs = losses(dtype)
        found[f"torch over ours, {name}"] = ratio(theirs, ours, settings).to_dict()
    ours, theirs = steps()
    found["training step, torch's over ours"] = ratio(theirs, ours, settings).to_dict()
    return found


def losses(dtype: torch.dtype) -> tuple[Callable[[], object], Callable[[], object]]:
    torch.manual_seed(0)
    rows, words = WINDOWS * LENGTH, sum(SIZES)
    hidden = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    weight = (torch.randn(words, WIDTH) / 10).to(dtype).requires_grad_()
    targets = torch.randint(words, (rows,))

    def ours() -> object:
        loss = linear_cross_entropy(hidden, weight, targets).mean()
        return torch.autograd.grad(loss, (hidden, weight))

    def theirs() -> object:
        loss = F.cross_entropy(F.linear(hidden, weight).float(), targets)
        return torch.autograd.grad(loss, (hidden, weight))

    return ours, theirs


def steps() -> tuple[Callable[[], object], Callable[[], object]]:
    """Forward, backward and AdamW of the demo's model, with either loss."""
    torch.manual_seed(0)
    modalities = [Modality(f"m{i}", "discrete", size) for i, size in enumerate(SIZES)]
    model = MultimodalModel(ModelConfig(d_model=WIDTH, n_layers=6, modalities=modalities))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    runs = torch.arange(WINDOWS * LENGTH).view(WINDOWS, LENGTH) // 64
    ids = (runs + torch.arange(WINDOWS)[:, None]) % len(SIZES)
    tokens = torch.randint(min(SIZES), ids.shape)
    batch = Batch(tokens=tokens, modality_ids=ids)

    def ours() -> None:
        model(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def theirs() -> None:
        with patch.object(vocabulary, "why_not", lambda hidden: "torch's is timed"):
            ours()

    return ours, theirs
