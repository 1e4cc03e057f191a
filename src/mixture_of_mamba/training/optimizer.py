"""AdamW with weight decay on matrices only, and clipping of the gradients' norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .train_config import TrainConfig

__all__ = ["clip_grad_norm", "decays", "make_optimizer"]


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies. The names decide, not the shapes: stacked biases and A_log are
    matrices too."""
    owner, _, last = name.rpartition(".")
    if last in ("A_log", "D", "bias") or parameter.ndim < 2:
        return False
    return "norm" not in owner.rpartition(".")[2] and "embedding" not in owner


def make_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig
) -> torch.optim.AdamW:
    """AdamW (decoupled decay, arXiv 1711.05101) with decay on matrices only."""
    named = [(name, p) for name, p in named_parameters if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in named if not decays(n, p)], "weight_decay": 0.0},
    ]
    sharded = any(hasattr(p, "full_tensor") for _, p in named)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=not sharded,
    )


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most `clip`.

    Args:
        parameters: those without a gradient are ignored.
        clip: largest norm; 0 for no limit.

    Returns:
        The norm before clipping, a scalar on the parameters' device; nothing synchronises.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    if gradients and clip:
        torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0))
    return norm
