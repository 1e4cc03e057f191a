"""Loss of continuous modalities by noise level: where between clean and noise a model is good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..models import MultimodalModel
from ..train.evaluation import Windows

__all__ = ["loss_by_noise_level"]


@torch.no_grad()
def loss_by_noise_level(
    model: MultimodalModel, windows: Windows, *, batch_size: int, count: int
) -> dict[str, list[float | None]]:
    """Mean squared error by modality and level, from the cleanest tenth of levels to the noisiest.

    The noise is the same at every call, so models can be compared.

    Args:
        model: in evaluation mode.
        windows: validation windows.
        batch_size: windows at a time.
        count: windows in all, the first ones.

    Returns:
        By continuous modality one loss per bin of levels; None where no position fell into it.
    """
    sums: dict[str, Any] = {}
    for start in range(0, min(count, len(windows)), batch_size):
        indices = list(range(start, min(start + batch_size, count, len(windows))))
        output = model(replace(windows.batch(indices), seed=start))
        for name, levels in output.extra.get("noise_levels", {}).items():
            sums[name] = sums.get(name, 0) + levels.double()
    return {
        name: [error / number if number else None for error, number in levels.tolist()]
        for name, levels in sums.items()
    }
