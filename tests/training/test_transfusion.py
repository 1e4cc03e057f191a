"""Text with cross entropy and images with a diffusion loss through the one loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixture_of_mamba.models.diffusion import NOISE_BINS
from mixture_of_mamba.training.config import ModelSettings, RunConfig, TrainConfig
from mixture_of_mamba.training.loop import train
from mixture_of_mamba.training.metrics import read_metrics
from tests.factories.data import prepare, tiny_config


def run(folder: Path, split: str = "all", resume: bool = False, **settings: Any) -> list[dict]:
    """Six steps of a tiny run; the lines of its metrics without their times."""
    fields = {"steps": 6, "batch_size": 2, "warmup": 1, "evaluate_every": 3, "log_every": 1}
    fields |= {"checkpoint_every": 3, "evaluate_batches": 2, "samples": 0, "tensorboard": False}
    tiny = tiny_config("transfusion", image={"patch": 8})
    config = RunConfig(
        modalities=tiny.modalities,
        data=tiny.data,
        model=ModelSettings(
            d_model=16, n_layers=2, d_state=4, split=split, loss_weights={"image": 5.0}
        ),
        train=TrainConfig(**(fields | {"device": "cpu", "progress": False} | settings)),
    )
    train(config, folder, build=prepare, resume=resume)
    timed = ("seconds", "tokens_per_second")
    lines = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def test_a_resumed_run_sees_the_same_noise(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop_after=3)
    assert run(tmp_path / "parts", resume=True) == whole


def test_validation_reports_the_image_loss_by_noise_level(tmp_path: Path) -> None:
    lines = run(tmp_path)
    for line in lines:
        assert ("noise_levels" in line) == (line["phase"] == "validation")
    levels = lines[-1]["noise_levels"]["image"]
    assert len(levels) == NOISE_BINS
    known = [x for x in levels if x is not None]
    assert min(known) <= lines[-1]["losses"]["image"] <= max(known)


def test_variants_start_at_one_image_loss(tmp_path: Path) -> None:
    """Before its first step the output map is zero, so noise and batches alone decide the loss."""
    runs = {split: run(tmp_path / split, split, batch_size=6, steps=1) for split in ("none", "all")}
    dense, mixture = (lines[0] for lines in runs.values())
    assert dense["losses"]["image"] == pytest.approx(mixture["losses"]["image"], rel=1e-6)
