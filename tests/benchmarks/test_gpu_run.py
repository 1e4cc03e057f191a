"""The benchmark `gpu` without a GPU: a dry run, and sections that crash, hang or cannot load."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.gpu import reporting, run

ROOT = Path(__file__).parents[2]

SECTIONS = ("ceilings", "kernels", "projections", "head", "training", "tuning")
PARTS = {
    *("copy", "gemm", "peers", "head 65k"),
    *(f"gemm 32 {name}" for name in ("in_proj", "x_proj", "dt_proj", "out_proj")),
    *(f"projection 32 {name}" for name in ("in_proj", "x_proj", "dt_proj", "out_proj")),
    *(f"{op} {part}" for op in ("scan", "conv") for part in ("error float32", "small")),
    *(
        f"step tiny {name} L 16, 32 tokens"
        for name in ("masks", "dense", "mixture", "dense again", "transformer")
    ),
    *(f"tuning: {name}" for name in ("scan forward", "scan backward", "scan checkpoints", "conv")),
}


def test_a_dry_run_measures_every_part_and_names_every_target(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--dry-run", "--out", str(out)]
    done = subprocess.run(
        [*command, "--sections", *SECTIONS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    assert set(found["parts"]) == PARTS
    assert not found["failed"]
    assert list(found["left_out"]) == ["step tiny mamba-ssm L 16, 32 tokens"]
    table = done.stdout.partition("=" * 100)[2]
    for name, part in found["parts"].items():
        assert part["lines"], f"{name} has no row"
        assert all(line in table for line in part["lines"])
    for title in (
        "mixture / our dense step, L 4096",
        "boolean masks / mixture, L 4096",
        "mamba-ssm dense / our dense, L 4096",
        "transformer / mixture, L 4096",
        "transformer / mixture, L 8192",
        "transformer / mixture, L 16384",
        "scan forward, ms",
        "scan backward, ms",
        "mamba-ssm's scan / ours, forward",
        "mamba-ssm's scan / ours, backward",
    ):
        (line,) = [line for line in table.splitlines() if line.startswith(f"  {title}")]
        assert "target" in line


FAILING = {
    "fakes.unloadable": "import a_package_that_is_not_there",
    "fakes.crashing": """
        import os
        def run(report):
            report.part("before", lambda found: report.line("row before"))
            report.part("crash", lambda found: os._exit(11))
            report.part("after", lambda found: report.line("row after"))
        """,
    "fakes.hanging": """
        import time
        def run(report):
            report.part("hang", lambda found: time.sleep(60), limit=0.2)
            report.part("raise", lambda found: 1 / 0)
            report.part("too long for what is left", lambda found: None, needs=1e6)
            report.part("last", lambda found: report.line("row last"))
        """,
}


def test_what_fails_costs_nothing_but_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fakes").mkdir()
    for name, source in FAILING.items():
        (tmp_path / f"{name.replace('.', '/')}.py").write_text(textwrap.dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "bench.json"
    monkeypatch.setattr(run, "SECTIONS", tuple(FAILING))
    assert run.main(["--dry-run", "--out", str(out), "--sections", *FAILING]) == 1
    found = json.loads(out.read_text())
    assert set(found["parts"]) == {"before", "after", "last"}
    assert set(found["failed"]) == {"section fakes.unloadable", "crash", "hang", "raise"}
    assert "No module named 'a_package" in found["failed"]["section fakes.unloadable"]
    assert "status 11: it hung, or crashed" in found["failed"]["crash"]
    assert "ZeroDivisionError" in found["failed"]["raise"]
    assert found["left_out"] == {"too long for what is left": "not measured: budget"}
    table = capsys.readouterr().out.partition("=" * 100)[2]
    assert "missing: too long for what is left: not measured: budget" in table


def _report(path: Path, device: str) -> Any:
    state = {"parts": {}, "failed": {}, "left_out": {}, "done": [], "running": None}
    return reporting.Report(path, float("inf"), True, torch.device(device), state)


def test_a_device_that_no_longer_answers_ends_the_process_and_keeps_the_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def illegal() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", illegal)
    report = _report(tmp_path / "bench.json", "cuda")
    report.found["earlier"] = {"time": 1.0}
    with pytest.raises(reporting.Poisoned, match="scan large"):
        report.part("scan large", lambda found: illegal())
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["parts"] == {"earlier": {"time": 1.0}}
    assert "illegal memory access" in kept["failed"]["scan large"]
    assert kept["running"] is None


def test_numbers_of_a_part_that_fails_later_are_kept(tmp_path: Path) -> None:
    def body(found: dict[str, Any]) -> None:
        found["ours"] = 1.0
        raise RuntimeError("their kernel failed")

    report = _report(tmp_path / "bench.json", "cpu")
    assert report.part("scan large", body) is None
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["parts"] == {"scan large": {"ours": 1.0}}
    assert "their kernel failed" in kept["failed"]["scan large"]


def test_what_an_earlier_file_has_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    parts = {"copy": {"lines": ["row"]}, "gemm": {"shape": [1, 2, 3]}}
    content = {"machine": {"device": "x"}, "parts": parts, "failed": {"gemm": "why"}}
    earlier.write_text(json.dumps(content))
    state = run.first_state(earlier)
    assert state["parts"] == {"copy": {"lines": ["row"]}}
    assert not state["failed"]
    report = _report(tmp_path / "bench.json", "cpu")
    report.state = state
    assert report.part("copy", lambda found: pytest.fail("measured")) == {"lines": ["row"]}
