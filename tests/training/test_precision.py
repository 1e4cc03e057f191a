"""`train.precision auto` in a run: settled once, written down, and kept by a resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixture_of_mamba.models.precision import Measured
from mixture_of_mamba.training import precision
from mixture_of_mamba.training.loop import train
from mixture_of_mamba.training.runs import read_config
from tests.factories.training import build, tiny_config


@pytest.mark.parametrize(("ratio", "taken"), [(0.4, "bf16"), (1.4, "float32")])
def test_a_run_has_what_was_measured_when_it_began(
    ratio: float, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = [ratio, 1.8 - ratio]  # as if it were resumed on another machine
    monkeypatch.setattr(precision, "training", lambda *_: Measured(ratios.pop(0)))
    config = tiny_config(steps=4, precision="auto", stop_after=2, checkpoint_every=2)
    train(config, tmp_path / "run", build=build)
    assert read_config(tmp_path / "run").train.precision == taken
    longer = tiny_config(steps=4, precision="auto", checkpoint_every=2)
    assert train(longer, tmp_path / "run", build=build, resume=True).finished
    assert read_config(tmp_path / "run").train.precision == taken and len(ratios) == 1
