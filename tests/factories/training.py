"""Synthetic data and configs that train in milliseconds; as a script it trains in a process of its
own: `python tests/factories/training.py OUT '{"steps": 6}' [--resume] [--uneven]`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixture_of_mamba import Batch
from mixture_of_mamba.training.config import RunConfig

WINDOW = 16
SIZES = {"text": 20, "image": 12, "speech": 9}


class Tokenizers:
    """Names and sizes; there is nothing to encode."""

    @property
    def modalities(self) -> list[tuple[str, str, int]]:
        return [(name, "discrete", size) for name, size in SIZES.items()]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "tokenizers.json").write_text("{}")


class Windows:
    """Random but fixed windows with a stretch of every modality and two documents.

    Args:
        text_only: every other window holds nothing but text, and half of its targets are masked.
    """

    def __init__(self, count: int, *, seed: int = 0, text_only: bool = False) -> None:
        draw = np.random.default_rng(seed)
        base = np.repeat([0, 1, 0, 2], WINDOW // 4)
        self.modality_ids = np.stack([np.roll(base, draw.integers(WINDOW)) for _ in range(count)])
        self.loss_mask = np.ones((count, WINDOW), bool)
        if text_only:
            self.modality_ids[::2] = 0
            self.loss_mask[::2, ::2] = False
        sizes = np.array(list(SIZES.values()))[self.modality_ids]
        # Learnable: a token says much about the next one.
        start = draw.integers(0, 5, (count, 1))
        self.tokens = (start + np.arange(WINDOW)[None] * 2) % sizes
        self.document_ids = (np.arange(WINDOW)[None] >= WINDOW // 2).repeat(count, 0).astype(int)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Any, *, seed: int | None = None) -> Batch:
        rows = np.asarray(indices, np.int64)
        return Batch(
            modality_ids=torch.from_numpy(self.modality_ids[rows]),
            tokens=torch.from_numpy(self.tokens[rows]),
            document_ids=torch.from_numpy(self.document_ids[rows]),
            loss_mask=torch.from_numpy(self.loss_mask[rows]),
            seed=seed,
        )


@dataclass
class Data:
    train: Any = field(default_factory=lambda: Windows(40))
    validation: Any = field(default_factory=lambda: Windows(9, seed=1))
    tokenizers: Any = field(default_factory=Tokenizers)
    validation_examples: list[Any] = field(default_factory=list)


def build(config: Any) -> Data:
    return Data()


def build_uneven(config: Any) -> Data:
    """Every other window is text only: with two windows a step, a rank often lacks images."""
    return Data(Windows(40, text_only=True), Windows(9, seed=1, text_only=True))


def logged(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def tiny_config(**train: Any) -> RunConfig:
    """Two blocks of width 16 on windows of 16 tokens."""
    values: dict[str, Any] = {
        "steps": 6,
        "batch_size": 4,
        "warmup": 2,
        "log_every": 1,
        "evaluate_every": 3,
        "evaluate_batches": 2,
        "checkpoint_every": 2,
        "device": "cpu",
        "samples": 0,
        "tensorboard": False,
        "progress": False,
    }
    return RunConfig.from_dict(
        {
            # of one's own: a window of the embedded scenes must hold a whole picture
            "modalities": {
                "text": {"codec": "bpe"},
                "image": {"codec": "vq", "size": 8},
                "speech": {"codec": "units"},
            },
            "data": {"window": WINDOW, "source": "mine"},
            "model": {"d_model": 16, "n_layers": 2},
            "train": values | train,
        }
    )


if __name__ == "__main__":
    from mixture_of_mamba.training.loop import train

    torch.set_num_threads(1)
    given = json.loads(sys.argv[2])
    model = given.pop("model", {})
    config = tiny_config(**given)
    train(
        replace(config, model=replace(config.model, **model)),
        sys.argv[1],
        build=build_uneven if "--uneven" in sys.argv else build,
        resume="--resume" in sys.argv,
    )
