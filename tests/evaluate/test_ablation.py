"""The 16 splits: gains, synergy, tables and page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.evaluate.ablation import ablation, ablation_rows, synergy, synergy_rows
from mixture_of_mamba.evaluate.comparison import load_comparison, write_comparison
from mixture_of_mamba.evaluate.plan import Job
from mixture_of_mamba.evaluate.report import write_report
from mixture_of_mamba.evaluate.variants import all_splits, variant_config
from mixture_of_mamba.layers import PROJECTIONS, parse_split

from .runs import make_plan, write_runs

WORTH = {"in_proj": 0.04, "x_proj": 0.02, "dt_proj": -0.01, "out_proj": 0.03}


def loss(job: Job, modality: str, steps: np.ndarray) -> np.ndarray:
    """Splits add up in pictures; all four together give 0.02 more in text."""
    split = parse_split(job.config.model.split)
    gain = sum(WORTH[name] for name in split)
    if modality == "text" and split == PROJECTIONS:
        gain += 0.02
    return (1.0 - gain) * (2.0 - steps / steps[-1])


def test_there_are_sixteen_splits() -> None:
    config = make_plan().config
    splits = {parse_split(variant_config(config, v, 0).model.split) for v in all_splits()}
    assert len(splits) == 16
    assert {frozenset(), PROJECTIONS} <= splits


def test_synergy_of_known_gains(tmp_path: Path) -> None:
    write_runs(tmp_path, make_plan(all_splits(), [0]), loss)
    comparison = load_comparison(tmp_path)
    figures = write_comparison(comparison)
    text, image = (synergy(figures, name) for name in ("text", "image"))
    assert dict(text.singles) == pytest.approx({name: 100 * w for name, w in WORTH.items()})
    assert (text.sum_of_singles, text.joint) == (pytest.approx(8.0), pytest.approx(10.0))
    assert text.excess == pytest.approx(2.0)
    assert image.excess == pytest.approx(0.0, abs=1e-9)
    found = ablation(figures)
    assert found["synergy"]["text"]["excess_percent"] == pytest.approx(2.0)
    assert found["splits"]["in_proj+out_proj"]["gain_percent"]["image"] == pytest.approx(7.0)
    rows = ablation_rows(figures)
    assert len(rows) == 17 and len({len(row) for row in rows}) == 1
    assert rows[1][0] == "none (dense)" and rows[1][2] == "0.00 %"
    assert synergy_rows(figures)[1][-3:] == ("+8.00 %", "+10.00 %", "+2.00 %")
    page = write_report(comparison, figures).read_text()
    assert "Which projections to split" in page
    assert page.count("<svg") == 4  # curves and bars of two modalities
