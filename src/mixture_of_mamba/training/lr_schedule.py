"""Learning rate by step: linear warm-up, then a cosine."""

from __future__ import annotations

import math

from .train_config import TrainConfig

__all__ = ["learning_rate"]


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of optimizer step `step` (the first is 1); a function of the step alone, so that
    there is nothing to store and nothing to restore."""
    if step <= config.warmup:
        return config.learning_rate * step / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    low = config.final_learning_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
