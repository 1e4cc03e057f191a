"""Steps are compared at equal token counts, and targets only with what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import reporting, targets, training


def _state(*steps: tuple[str, int, float], length: int = 4096) -> dict[str, Any]:
    """(variant, tokens, milliseconds) at the scale of the targets."""
    parts = {
        f"step transfusion-1.4b {variant} L {length}, {tokens} tokens": {
            "scale": "transfusion-1.4b",
            "variant": variant,
            "length": length,
            "tokens": tokens,
            "kernels": "mamba-ssm",
            "time": {"median": time},
        }
        for variant, tokens, time in steps
    }
    return {"parts": parts, "failed": {}, "left_out": {}}


def _line(state: dict[str, Any], title: str) -> str:
    (line,) = [v for v in targets.target_lines(state) if v.strip().startswith(title)]
    return line


def test_a_ratio_takes_the_largest_token_count_that_both_have() -> None:
    state = _state(("dense", 16384, 900.0), ("dense", 8192, 400.0), ("mixture", 8192, 404.0))
    line = _line(state, "mixture / our dense")
    assert " 1.010 " in line
    assert line.count("met") == 1
    assert "8192 tokens: 404.0 / 400.0 ms" in line


def test_a_missed_target_says_so_and_dense_is_the_mean_of_before_and_after() -> None:
    state = _state(("dense", 8192, 400.0), ("mixture", 8192, 420.0), ("dense again", 8192, 408.0))
    line = _line(state, "mixture / our dense")
    assert " 1.040 " in line
    assert "MISSED" in line
    assert "dense again +2.0%" in line


def test_unequal_token_counts_are_not_compared() -> None:
    state = _state(("dense", 16384, 900.0), ("mixture", 8192, 404.0))
    line = _line(state, "mixture / our dense")
    assert "not measured" in line
    assert "met" not in line


def test_why_a_step_is_missing_is_named() -> None:
    state = _state(("mixture", 8192, 404.0), length=8192)
    name = "step transfusion-1.4b transformer L 8192, 8192 tokens"
    state["left_out"][name] = "not measured: budget"
    assert "not measured: budget" in _line(state, "transformer / mixture, L 8192")


@pytest.mark.parametrize(("forward", "verdict"), [(0.94, "met"), (0.96, "MISSED")])
def test_scan_times_count_at_the_shape_of_the_target_only(forward: float, verdict: str) -> None:
    part: dict[str, Any] = {"shape": [8, 4096, 4096, 16], "forward": {"median": forward}}
    state = _state()
    state["parts"]["scan large"] = part | {"forward mamba-ssm": {"median": 1.88}}
    assert verdict in _line(state, "scan forward")
    assert f" {1.88 / forward:.2f} " in _line(state, "mamba-ssm's scan / ours, forward")
    state["parts"]["scan large"] = part | {"shape": [1, 16, 32, 4]}
    assert "not measured" in _line(state, "scan forward")


def test_a_group_takes_the_tokens_that_its_hungriest_variant_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured = []

    def measure(
        report: Any, found: Any, scale: str, variant: Any, tokens: int, length: int
    ) -> None:
        measured.append((variant.name, tokens))
        found["out_of_memory"] = variant.name == "mixture" and tokens > 32

    monkeypatch.setattr(training, "measure", measure)
    state = {"parts": {}, "failed": {}, "left_out": {}, "done": [], "running": None}
    report = reporting.Report(tmp_path / "b.json", float("inf"), True, torch.device("cpu"), state)
    group = training.Group("tiny", 16, (training.DENSE, training.MIXTURE, training.TRANSFORMER))
    assert training.run_group(report, group, 128) == 32
    last = [(name, 32) for name in ("dense", "mixture", "transformer")]
    assert measured[-3:] == last
    assert ("transformer", 128) not in measured
    # Another process comes to the same count without measuring again.
    before = len(measured)
    assert training.run_group(report, group, 128) == 32
    assert len(measured) == before


def test_the_rows_of_the_targets_come_first_and_compiled_ones_last() -> None:
    groups = training.groups(False)
    assert (groups[0].scale, groups[0].length) == ("transfusion-1.4b", 4096)
    assert [g.length for g in groups[:3]] == [4096, 8192, 16384]
    compiled = [any(v.compiled for v in g.variants) for g in groups]
    assert compiled == sorted(compiled)
    assert any(compiled)
