"""The 16 splits: gains, synergy, tables and page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mixture_of_mamba.cli.main import main
from mixture_of_mamba.evaluation.ablation import (
    ablation,
    ablation_rows,
    gains_of,
    synergy,
    synergy_rows,
)
from mixture_of_mamba.evaluation.comparison import load_comparison
from mixture_of_mamba.evaluation.plan import Job
from mixture_of_mamba.evaluation.report import write_report
from mixture_of_mamba.evaluation.summary import write_comparison
from mixture_of_mamba.evaluation.variants import all_splits, variant_config
from mixture_of_mamba.layers import PROJECTIONS, parse_split
from tests.factories.runs import make_plan, write_runs

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
    text, image = (synergy(gains_of(figures, name)) for name in ("text", "image"))
    singles = {name: gain.mean for name, gain in text.singles.items()}
    assert singles == pytest.approx({name: 100 * w for name, w in WORTH.items()})
    assert (text.sum_of_singles.mean, text.joint.mean) == (pytest.approx(8.0), pytest.approx(10.0))
    assert text.excess.mean == pytest.approx(2.0) and text.excess.interval is None
    assert image.excess.mean == pytest.approx(0.0, abs=1e-9)
    found = ablation(figures)
    assert found["synergy"]["text"]["excess_interval"] is None
    assert found["synergy"]["text"]["excess_percent"] == pytest.approx(2.0)
    assert found["splits"]["in_proj+out_proj"]["gain_percent"]["image"] == pytest.approx(7.0)
    rows = ablation_rows(figures)
    assert len(rows) == 17 and len({len(row) for row in rows}) == 1
    assert rows[1][0] == "none (dense)" and rows[1][2] == "0.00 %"
    assert synergy_rows(figures)[1][-3:] == ("+8.00 %", "+10.00 %", "+2.00 %")
    page = write_report(comparison, figures).read_text()
    assert "Which projections to split" in page
    assert page.count("<svg") == 4  # curves and bars of two modalities


def test_the_excess_has_an_interval_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 % and 3 % with two seeds: 2.5 % +- 12.706 * 0.5 %; made anew with the report."""

    def two(job: Job, modality: str, steps: np.ndarray) -> np.ndarray:
        more = 0.01 if job.seed == 1 and parse_split(job.config.model.split) == PROJECTIONS else 0.0
        return loss(job, modality, steps) - more * (2.0 - steps / steps[-1])

    write_runs(tmp_path, make_plan(all_splits(), [0, 1]), two)
    assert main(["report", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "ablation.json").read_text())["synergy"]["text"]
    assert found["excess_by_seed"] == pytest.approx([2.0, 3.0])
    assert found["excess_percent"] == pytest.approx(2.5)
    assert found["excess_interval"] == pytest.approx([2.5 - 6.353102, 2.5 + 6.353102], abs=1e-5)
    assert "+2.50 % (-3.85 to +8.85)" in (tmp_path / "ablation.md").read_text()
    for page in ("ablation.md", "report.html"):
        assert "interval of the excess over 2 seeds" in (tmp_path / page).read_text()


def test_without_a_loss_there_is_no_gain_to_add_up(tmp_path: Path) -> None:
    """A dense loss of zero: gains are no numbers, and the page is made all the same."""
    write_runs(tmp_path, make_plan(all_splits(), [0, 1]), lambda job, name, steps: 0.0 * steps)
    comparison = load_comparison(tmp_path)
    figures = write_comparison(comparison)
    assert figures.variants["mom"].gain("text").mean is None
    assert synergy(gains_of(figures, "text")).excess.mean is None
    assert synergy_rows(figures)[1] == ("text", *["—"] * 7)
    write_report(comparison, figures)
